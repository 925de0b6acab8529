/*
 * files.c
 *		What the URLs of generated files lead to.
 *
 * A picture is painted from its name, so that no two look alike: a sun over
 * hills, 256 colours, not compressed.  All videos are the same second.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

#define WIDTH 320
#define HEIGHT 240

/* A row begins with the number of its filter, which is none. */
#define ROW (1 + WIDTH)

/* Colours of the palette: the sky from top to horizon, sun, hills */
#define SKY 200
#define SUN 200
#define HILLS 201
#define HILL_COUNT 3
#define COLOURS (HILLS + HILL_COUNT)

/*
 * A second of a sunset, 192 by 144: VP9 in MP4, recorded by a browser from a
 * canvas.
 */
static const char clip[] =
	"AAAAJGZ0eXBpc29tAAACAGlzb21pc282aXNvMnZwMDltcDQxAAACt21vb3YAAAB4bXZoZAEA"
	"AAAAAAAA5yjvAQAAAADnKO8BAAAD6AAAAAAAAAOQAAEAAAEAAAAAAAAAAAAAAAABAAAAAAAA"
	"AAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	"AAIAAAIPdHJhawAAAGh0a2hkAQAAAwAAAADnKO8BAAAAAOco7wEAAAABAAAAAAAAAAAAAAOQ"
	"AAAAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAQAAAAADA"
	"AAAAkAAAAAABn21kaWEAAAAsbWRoZAEAAAAAAAAA5yjvAQAAAADnKO8BAAB1MAAAAAAAAAOQ"
	"VcQAAAAAAC1oZGxyAAAAAAAAAAB2aWRlAAAAAAAAAAAAAAAAVmlkZW9IYW5kbGVyAAAAAT5t"
	"aW5mAAAAFHZtaGQAAAABAAAAAAAAAAAAAAAlZGluZgAAAB1kcmVmAAAAAAAAAAEAAAANdXJs"
	"IAAAAAEAAAAA/XN0YmwAAAAQc3RzYwAAAAAAAAAAAAAAEHN0dHMAAAAAAAAAAAAAABRzdHN6"
	"AAAAAAAAAAAAAAAAAAAAEHN0Y28AAAAAAAAAAAAAALFzdHNkAAAAAAAAAAEAAAChdnAwOQAA"
	"AAAAAAABAAAAAQAAAAAAAAAAAAAAAADAAJAASAAAAEgAAAAAAAAAAQpWUEMgQ29kaW5nAAAA"
	"AAAAAAAAAAAAAAAAAAAAAAAAABj//wAAABBwYXNwAAAAAQAAAAEAAAAUYnRydAAAAAAAAAAA"
	"AAAAAAAAABR2cGNDAQAAAAAAgQENAQAAAAAAE2NvbHJuY2x4AAEADQABgAAAAChtdmV4AAAA"
	"IHRyZXgAAAAAAAAAAQAAAAEAAAAAAAAAAAAAAAAAAAC4bW9vZgAAABBtZmhkAAAAAAAAAAEA"
	"AACgdHJhZgAAABR0ZmhkAAIAIAAAAAEBAQAAAAAAFHRmZHQBAAAAAAAAAAAAAAAAAABwdHJ1"
	"bgEAAwUAAAALAAAAwAIAAAAAAAcKAAACIQAACGgAAAA/AAATcwAAAC4AAAm8AAAAMQAACf8A"
	"AAA6AAAJbwAAADMAAAnGAAAAMQAACbUAAABAAAAJwAAAADcAAAm+AAAAMgAAA+cAAAAxAAAE"
	"P21kYXSCSYNCUAvwCPZmOCQcGZIAAfBfW+I6RrB4/1PrtIw71+btXsfsPr/Ywkz6U6v4aAAA"
	"fh3/lehP1rARfQsKV410A7GcnfOtXGHj7e+qAPopwWyA+Gw0Ccqgv16emptgwq8ovrFQ2lAz"
	"SYgEum84d4Uay2JWZ75rhT0/bl7KlZLBtHdgpajHcGb0yZbCfunJz7zWEhPT8ydjGUt1QwM+"
	"WdtnKuEyA5865fVMSQgPeeSoJ2IUDwx0CByWWCHfdtF3zuzMWsGyqDXuQOkmg/0wAN2x62gq"
	"qpj+W4QT+rcjgsyAbdGJdQrky6YyrTQpaS/QOBRCXuyJUbIvv/4hk9jvDO1DpuJDj2P8/sI1"
	"gkTvuzys67gBeAbWkda5WCs+a6mXMpLIv5S1pyJuzQH03Xjq0sT/bOGCJeJWidETQIOMOn/4"
	"XunJVw5T5A6ZCWQ3+PAIX7LwHgAlMZsjtk+oBeFxbwW6BfjjCqawQAdhwQqUNv/EGrrnsub+"
	"Lpy3aAB4bTHx9G2j2JKJ1ZCRanM+9Xj7R0Ff6COfjmMqnFhaMSZKgQGLRNpbJeB9IUUt6hMA"
	"A/lvKel0hpFpWYu+Dr47U35RtC2mlZw74Suxu6uxx+jwldqRSFGDnAATcYeH8GesuuhDP8ms"
	"cPjmjrMx/iSIUtn01dQs4FnheHQaz7kWE4vwUT8n2oTV3iq2NXGVB3QZiPJoZuISbTh7axQK"
	"Ps6sqALCk30gAIYAQJJz8XQAACRwyi/RwpEYAAB6A1OtMWR93412ZeCo2FYTLRxv6arOPcSw"
	"Zj7rsX+ooDzxRda8kyGV38YsAIYAQJIc/FvAAANwAAB6JdNxYHm4PuDAx6pEt5aN63z4xZIB"
	"ReDljycOCgxlwmyGAECSHPxdAAADcAAAeiXTcWTO2wYOREPVIvpi6TSsF412WqE+M1J0cCPZ"
	"Ob755PEAhgBAkhz8XQAABXApsAAAf1e9Q4OW6UA9VaEpzz0LvNOHzkj7w/JR3LlhQWPPs9zg"
	"JPDycAXWMZfHAIYAQJIc/FzgAANwAAB/V71DiwMe/Mc89C4Qg3SfuDBWtA7gwezek3M0PGzT"
	"lIhvnXK5EIYAQJIc/FxgAANwAAB/V71DjLWJwvXx5aEr++pBtmwNl8X5XMg3oUGfgJDtAqeP"
	"HACGAECSc/FvAAAUcBd7AAB/Sy9onTopobQz3WBnlKGVedQjEvSVcu0W0rJXPkKoXpY4jPuz"
	"9QC9Yp6y3tkSo/IAhgBAknPxboAADHAAAH9LL2idOj43eDAJvgRn6a5ejow1LGUb4EvaxEoL"
	"HE4p8ktjPHlm/3EMgIYAQJIc/FtAAANwAAB/V70sGRMioQeAvZlFU+E/2mJWAp4dblLMaldD"
	"Ohxql5CiyekAhgBAkhz8WsAAA3AAAH9XvUC7w1zCc0zok++oe77KRndAIvaGidUzIPLMAZvN"
	"WAdVVAAAAExtZnJhAAAANHRmcmEBAAAAAAAAAQAAAD8AAAABAAAAAAAAAAAAAAAAAAAC2wAA"
	"AAEAAAABAAAAAQAAABBtZnJvAAAAAAAAAEw=";

static uint32_t
crc32_of(const unsigned char *data, size_t length)
{
	uint32_t	crc = UINT32_MAX;

	for (size_t i = 0; i < length; i++)
	{
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? UINT32_C(0xEDB88320) : 0);
	}
	return ~crc;
}

static uint32_t
adler32_of(const unsigned char *data, size_t length)
{
	uint32_t	a = 1;
	uint32_t	b = 0;

	for (size_t i = 0; i < length; i++)
	{
		a = (a + data[i]) % 65521;
		b = (b + a) % 65521;
	}
	return b << 16 | a;
}

static void
put_number(Json *out, uint32_t value)
{
	char		bytes[] = {
		(char) (value >> 24), (char) (value >> 16), (char) (value >> 8),
		(char) value
	};

	json_raw(out, bytes, sizeof(bytes));
}

/* A chunk of a PNG: length, type, data, check sum of the latter two */
static void
put_chunk(Json *out, const char *type, const void *data, size_t length)
{
	size_t		begin;

	put_number(out, (uint32_t) length);
	begin = out->length;
	json_raw(out, type, 4);
	json_raw(out, data, length);
	put_number(out, crc32_of((unsigned char *) out->data + begin, length + 4));
}

/* Deflate's "stored" blocks of a row each, in zlib's wrapper */
static void
put_rows(Json *out, const unsigned char *rows)
{
	Json		stream = {0};

	json_raw(&stream, "\x78\x01", 2);
	for (int y = 0; y < HEIGHT; y++)
	{
		char		head[] = {
			y == HEIGHT - 1, (char) (ROW & 0xFF), (char) (ROW >> 8),
			(char) (~ROW & 0xFF), (char) (~ROW >> 8 & 0xFF)
		};

		json_raw(&stream, head, sizeof(head));
		json_raw(&stream, (const char *) rows + (size_t) y * ROW, ROW);
	}
	put_number(&stream, adler32_of(rows, (size_t) ROW * HEIGHT));
	put_chunk(out, "IDAT", stream.data, stream.length);
	json_free(&stream);
}

/* A colour between those of a sky's top and its horizon, by their hues */
static void
mix(unsigned char *colour, double hue, double light, double share)
{
	for (int i = 0; i < 3; i++)
	{
		double		wave = 0.5 + 0.5 * cos(6.2832 * (hue + i / 3.0));

		wave = share + (1 - share) * wave;
		colour[i] = (unsigned char) (255 * light * wave);
	}
}

/* The height of a hill's ridge, the nearest hill being the last */
static double
ridge(int hill, int x, double phase)
{
	return 130 + 34 * hill +
		16 * sin(phase * (hill + 1) + x / (34.0 + 14 * hill)) +
		5 * sin(phase + x / (9.0 + 5 * hill));
}

static void
paint(uint32_t seed, unsigned char palette[COLOURS][3], unsigned char *rows)
{
	double		hue = (seed & 0xFF) / 256.0;
	int			sun_x = 60 + (int) (seed >> 8 & 0xFF) * 200 / 256;
	int			sun_y = 50 + (int) (seed >> 16 & 0xFF) * 80 / 256;
	double		phase = (seed >> 24) / 40.0;

	for (int i = 0; i < SKY; i++)
		mix(palette[i], hue + 0.25 * i / SKY, 0.45 + 0.5 * i / SKY, 0.35);
	mix(palette[SUN], hue + 0.2, 1.0, 0.85);
	for (int i = 0; i < HILL_COUNT; i++)
		mix(palette[HILLS + i], hue + 0.6, 0.5 - 0.15 * i, 0.3);

	for (int y = 0; y < HEIGHT; y++)
	{
		rows[y * ROW] = 0;
		for (int x = 0; x < WIDTH; x++)
		{
			int			from_x = x - sun_x;
			int			from_y = y - sun_y;
			int			colour = y * SKY / HEIGHT;

			if (from_x * from_x + from_y * from_y < 28 * 28)
				colour = SUN;
			for (int i = 0; i < HILL_COUNT; i++)
				if (y > ridge(i, x, phase))
					colour = HILLS + i;
			rows[y * ROW + 1 + x] = (unsigned char) colour;
		}
	}
}

static void
put_picture(Json *out, const char *name)
{
	/* 8 bits a pixel, by palette */
	static const unsigned char header[] = {
		0, 0, WIDTH >> 8, WIDTH & 0xFF,
		0, 0, HEIGHT >> 8, HEIGHT & 0xFF, 8, 3, 0, 0, 0
	};
	unsigned char palette[COLOURS][3];
	unsigned char *rows = must_allocate(NULL, (size_t) ROW * HEIGHT);

	paint(crc32_of((const unsigned char *) name, strlen(name)), palette, rows);
	json_raw(out, "\x89PNG\r\n\x1a\n", 8);
	put_chunk(out, "IHDR", header, sizeof(header));
	put_chunk(out, "PLTE", palette, sizeof(palette));
	put_rows(out, rows);
	put_chunk(out, "IEND", "", 0);
	free(rows);
}

static void
put_clip(Json *out)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t	bits = 0;
	int			known = 0;

	for (const char *s = clip; *s != '\0' && *s != '='; s++)
	{
		char		byte;

		bits = bits << 6 | (uint32_t) (strchr(digits, *s) - digits);
		known += 6;
		if (known < 8)
			continue;
		known -= 8;
		byte = (char) (bits >> known);
		json_raw(out, &byte, 1);
	}
}

/* What a file URL leads to, by the end of its name */
void
answer_file(const char *name, Answer *answer)
{
	const char *dot = strrchr(name, '.');

	answer->status = 200;
	if (dot != NULL && strcmp(dot, ".png") == 0)
	{
		answer->content_type = "image/png";
		put_picture(&answer->body, name);
	}
	else if (dot != NULL && strcmp(dot, ".mp4") == 0)
	{
		answer->content_type = "video/mp4";
		put_clip(&answer->body);
	}
	else
	{
		answer->content_type = "application/octet-stream";
		json_literal(&answer->body, "a generated file\n");
	}
}
