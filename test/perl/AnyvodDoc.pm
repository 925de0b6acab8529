package AnyvodDoc;

# AnyvodDoc - what the documents of the project say, for tests that hold them
# to it
#
#	my $page = AnyvodDoc->new('doc/reference.md');
#	foreach my $row ($page->table('Settings', 'setting')) { ... }
#	foreach my $block ($page->blocks) { ... }
#
# As much of Markdown as the documents use: headings, fenced blocks, tables
# with a head, spans of code, links.  No test lives here.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;

# The project's folder.
our $top = "$FindBin::RealBin/../..";

sub new
{
	my ($class, $file) = @_;
	my $self = bless {
		file => $file,
		lines => [ split /\n/, PostgreSQL::Test::Utils::slurp_file("$top/$file") ],
	}, $class;

	$self->_find_blocks;
	return $self;
}

# Fenced blocks, each a hash:
#
#	language => '...'	behind the fence, '' without
#	line => N			of the fence, as an editor counts
#	text => "..."		without the fences
#	remark => '...'		of the HTML comment right before it, '' without one
#	indent => '...'		of the fence, taken off each line
sub _find_blocks
{
	my ($self) = @_;
	my @blocks;
	my $block;

	for my $n (0 .. $#{ $self->{lines} })
	{
		my $line = $self->{lines}[$n];

		if ($block)
		{
			$self->{in_block}{$n} = 1;
			if ($line =~ /^\s*```\s*$/)
			{
				$block = undef;
				next;
			}
			$line =~ s/^\Q$block->{indent}\E//;
			$block->{text} .= "$line\n";
		}
		elsif ($line =~ /^(\s*)```(\w*)\s*$/)
		{
			my ($indent, $language) = ($1, $2);
			my $before = $n > 0 ? $self->{lines}[ $n - 1 ] : '';
			my ($remark) = $before =~ /^\s*<!--\s*(.*?)\s*-->\s*$/;

			$self->{in_block}{$n} = 1;
			$block = {
				file => $self->{file},
				line => $n + 1,
				indent => $indent,
				language => $language,
				remark => $remark // '',
				text => '',
				follows => @blocks && $before =~ /^\s*```\s*$/ ? 1 : 0,
			};
			push @blocks, $block;
		}
	}
	die "$self->{file}: a block is not closed" if $block;
	$self->{blocks} = \@blocks;
	return;
}

sub blocks
{
	my ($self) = @_;
	return @{ $self->{blocks} };
}

# Headings, without those that would be in a block: [ depth, text, line ].
sub headings
{
	my ($self) = @_;

	return map {
		!$self->{in_block}{$_} && $self->{lines}[$_] =~ /^(#+) (.*?)\s*$/
		  ? [ length $1, $2, $_ ]
		  : ()
	} 0 .. $#{ $self->{lines} };
}

# The lines below a heading, up to the next that is not below it.
sub section
{
	my ($self, $title) = @_;
	my @headings = $self->headings;

	for my $i (0 .. $#headings)
	{
		my ($depth, $text, $line) = @{ $headings[$i] };

		next if $text ne $title;
		my ($next) = grep { $_->[0] <= $depth } @headings[ $i + 1 .. $#headings ];
		my $last = $next ? $next->[2] - 1 : $#{ $self->{lines} };

		return @{ $self->{lines} }[ $line + 1 .. $last ];
	}
	die "$self->{file} has no section \"$title\"";
}

# Titles of the sections right below one.
sub sections_of
{
	my ($self, $title) = @_;
	my @below;
	my $depth = 0;

	foreach my $heading ($self->headings)
	{
		$depth = 0 if $depth && $heading->[0] <= $depth;
		push @below, $heading->[1] if $depth && $heading->[0] == $depth + 1;
		$depth = $heading->[0] if !$depth && $heading->[1] eq $title;
	}
	return @below;
}

# Rows of the tables of a section whose first column has that head; cells
# without the marks of code.
sub table
{
	my ($self, $title, $head) = @_;
	my @rows;
	my $inside = 0;

	foreach my $line ($self->section($title))
	{
		if ($line !~ /^\|/)
		{
			$inside = 0;
			next;
		}
		$line =~ s/^\|\s*|\s*\|\s*$//g;
		my @cells = map { s/^`([^`]*)`$/$1/r } split /\s*(?<!\\)\|\s*/, $line, -1;

		if ($inside) { push @rows, \@cells if $cells[0] !~ /^-+$/; }
		elsif ($cells[0] eq $head) { $inside = 1; }
	}
	die "$self->{file}: \"$title\" has no table \"$head\"" unless @rows;
	return @rows;
}

# The text without blocks.
sub prose
{
	my ($self) = @_;

	return join "\n",
	  map { $self->{in_block}{$_} ? '' : $self->{lines}[$_] } 0 .. $#{ $self->{lines} };
}

# Spans of code in the text, with the blanks of a line's end as one.
sub spans
{
	my ($self) = @_;

	return map { s/\s+/ /gr } $self->prose =~ /(?<!`)`([^`]+)`(?!`)/g;
}

# What a link can lead to within the page, as GitHub names it.
sub anchors
{
	my ($self) = @_;
	my %seen;

	return map {
		my $name = lc $_->[1] =~ s/`//gr;

		$name =~ s/[^\w\- ]//g;
		$name =~ tr/ /-/;
		$seen{$name}++ ? "$name-" . ($seen{$name} - 1) : $name;
	} $self->headings;
}

sub links
{
	my ($self) = @_;
	return $self->prose =~ /\]\(([^)\s]+)\)/g;
}

1;
