/* SPDX-License-Identifier: MIT */
/*
 * The commands, and the options that all of them share.
 *
 * A command reports its own failures (out.h); its exit status is the worst of them.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "progress.h"

struct options {
	uint64_t offset;      /* --offset, bytes */
	const char *journal;  /* --journal, path of an external journal; NULL: none is given */
	uint64_t superblock;  /* --superblock, block number; 0: the primary one */
	uint64_t cache_bytes; /* --cache-size; 0: the library's default */
	unsigned partition;   /* --partition, from 1; 0: none */
	enum progress_mode progress;
	bool norecovery;
	bool no_lock;
	bool json;
};

/*
 * As getopt_long(3) for the command argv[0]; an unknown option or a missing value ends the process
 * with a usage error.
 */
int command_option(int argc, char **argv, const char *letters, const struct option *names);

/* The value of an option that is a number; @suffixes allows K, M, G and T (powers of 1024). */
enum number_form { NUMBER_PLAIN, NUMBER_BYTES };
uint64_t option_number(const char *command, const char *option, const char *text,
		       enum number_form form);

/* check.c; ends the process, with a status of its own kind */
void command_check(const struct options *opts, int argc, char **argv);
/* show.c */
void command_info(const struct options *opts, int argc, char **argv);
void command_stat(const struct options *opts, int argc, char **argv);
void command_df(const struct options *opts, int argc, char **argv);
/* list.c, find.c */
void command_ls(const struct options *opts, int argc, char **argv);
void command_du(const struct options *opts, int argc, char **argv);
void command_find(const struct options *opts, int argc, char **argv);
/* copy.c */
void command_cat(const struct options *opts, int argc, char **argv);
void command_cp(const struct options *opts, int argc, char **argv);
/* tar.c */
void command_export(const struct options *opts, int argc, char **argv);
/* write.c */
void command_mkdir(const struct options *opts, int argc, char **argv);
void command_rmdir(const struct options *opts, int argc, char **argv);
void command_rm(const struct options *opts, int argc, char **argv);
void command_mv(const struct options *opts, int argc, char **argv);
void command_ln(const struct options *opts, int argc, char **argv);
void command_chmod(const struct options *opts, int argc, char **argv);
void command_chown(const struct options *opts, int argc, char **argv);
void command_touch(const struct options *opts, int argc, char **argv);
void command_truncate(const struct options *opts, int argc, char **argv);
void command_mknod(const struct options *opts, int argc, char **argv);
void command_replay(const struct options *opts, int argc, char **argv);
/* attr.c */
void command_xattr(const struct options *opts, int argc, char **argv);

#endif
