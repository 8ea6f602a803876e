/* SPDX-License-Identifier: MIT */
/*
 * Hashes of names, by which indexed directories are sorted: the legacy one, half MD4 and TEA, each
 * over signed or unsigned characters (the machines that made the first ones disagreed).
 *
 * Pure functions.  The keyed hash of case-insensitive encrypted directories is not known here.
 *
 * H1  The lowest bit of the major hash is 0 (the tree uses it as a mark), and it is never the
 *     highest value, which once meant the end of a directory.
 */
#include "fs/fs.h"

#include "base/diag.h"

#define HASH_END 0xFFFFFFFEu

static uint32_t rotate_left(uint32_t v, unsigned by)
{
	return v << by | v >> (32 - by);
}

/* A byte of a name as the machine saw it that made the directory: wrapped to 32 bits. */
static uint32_t character(uint8_t byte, bool is_signed)
{
	return is_signed ? (uint32_t)(int8_t)byte : byte;
}

static uint32_t hash_legacy(const uint8_t *name, size_t len, bool is_signed)
{
	uint32_t hash0 = 0x12A3FE2D, hash1 = 0x37ABE8F9;

	for (size_t i = 0; i < len; i++) {
		uint32_t hash = hash1 + (hash0 ^ character(name[i], is_signed) * 7152373u);

		if (hash & 0x80000000u)
			hash -= 0x7FFFFFFFu;
		hash1 = hash0;
		hash0 = hash;
	}
	return hash0 << 1;
}

/*
 * The next @words words of a name of which @len bytes are left: four characters each, the first one
 * on top, filled up with the length.
 */
static void fill_words(const uint8_t *name, size_t len, bool is_signed, uint32_t *words,
		       uint32_t words_count)
{
	uint32_t pad = (uint32_t)len | (uint32_t)len << 8;

	pad |= pad << 16;
	for (uint32_t w = 0; w < words_count; w++) {
		words[w] = pad;
		for (size_t i = w * 4u; i < len && i < w * 4u + 4; i++)
			words[w] = (words[w] << 8) + character(name[i], is_signed);
	}
}

/* MD4 without its last round's worth of words: 8 of 16 a block, three rounds. */
static void half_md4(uint32_t state[4], const uint32_t in[8])
{
	static const uint8_t order[3][8] = {
		{ 0, 1, 2, 3, 4, 5, 6, 7 },
		{ 1, 3, 5, 7, 0, 2, 4, 6 },
		{ 3, 7, 2, 6, 1, 5, 0, 4 },
	};
	static const uint8_t shift[3][4] = { { 3, 7, 11, 19 }, { 3, 5, 9, 13 }, { 3, 9, 11, 15 } };
	static const uint32_t add[3] = { 0, 0x5A827999, 0x6ED9EBA1 };
	uint32_t a = state[0], b = state[1], c = state[2], d = state[3];

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 8; i++) {
			uint32_t f, sum;

			if (round == 0)
				f = d ^ (b & (c ^ d));
			else if (round == 1)
				f = (b & c) + ((b ^ c) & d);
			else
				f = b ^ c ^ d;
			sum = rotate_left(a + f + in[order[round][i]] + add[round],
					  shift[round][i % 4]);
			a = d;
			d = c;
			c = b;
			b = sum;
		}
	}
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
}

/* The Tiny Encryption Algorithm, 16 rounds. */
static void tea(uint32_t state[4], const uint32_t key[4])
{
	uint32_t sum = 0, b0 = state[0], b1 = state[1];

	for (unsigned i = 0; i < 16; i++) {
		sum += 0x9E3779B9u;
		b0 += ((b1 << 4) + key[0]) ^ (b1 + sum) ^ ((b1 >> 5) + key[1]);
		b1 += ((b0 << 4) + key[2]) ^ (b0 + sum) ^ ((b0 >> 5) + key[3]);
	}
	state[0] += b0;
	state[1] += b1;
}

static void start_state(const uint32_t seed[4], uint32_t state[4])
{
	static const uint32_t standard[4] = { 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476 };
	bool seeded = seed[0] | seed[1] | seed[2] | seed[3];

	memcpy(state, seeded ? seed : standard, sizeof(standard));
}

static struct dir_hash hash_half_md4(const uint8_t *name, size_t len, bool is_signed,
				     uint32_t state[4])
{
	for (size_t at = 0; at < len; at += 32) {
		uint32_t in[8];

		fill_words(name + at, len - at, is_signed, in, 8);
		half_md4(state, in);
	}
	return (struct dir_hash){ .major = state[1], .minor = state[2] };
}

static struct dir_hash hash_tea(const uint8_t *name, size_t len, bool is_signed, uint32_t state[4])
{
	for (size_t at = 0; at < len; at += 16) {
		uint32_t in[4];

		fill_words(name + at, len - at, is_signed, in, 4);
		tea(state, in);
	}
	return (struct dir_hash){ .major = state[0], .minor = state[1] };
}

int dir_hash(uint8_t version, const uint32_t seed[4], const void *name, size_t name_len,
	     struct dir_hash *ret)
{
	bool is_signed = version < DX_HASH_LEGACY_UNSIGNED;
	struct dir_hash hash = { 0 };
	uint32_t state[4];

	start_state(seed, state);
	switch (version) {
	case DX_HASH_LEGACY:
	case DX_HASH_LEGACY_UNSIGNED: hash.major = hash_legacy(name, name_len, is_signed); break;
	case DX_HASH_HALF_MD4:
	case DX_HASH_HALF_MD4_UNSIGNED:
		hash = hash_half_md4(name, name_len, is_signed, state);
		break;
	case DX_HASH_TEA:
	case DX_HASH_TEA_UNSIGNED: hash = hash_tea(name, name_len, is_signed, state); break;
	default: return corrupt("hash version %u of directories is not known", version);
	}
	hash.major &= ~1u;
	if (hash.major == HASH_END)
		hash.major -= 2;
	*ret = hash;
	return 0;
}
