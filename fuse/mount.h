/* SPDX-License-Identifier: MIT */
/*
 * `uext4 mount`: an image as a directory of this system.
 */
#ifndef UEXT4_FUSE_MOUNT_H
#define UEXT4_FUSE_MOUNT_H

/*
 * Mounts the image that the arguments name and returns the process's exit status.
 *
 *	mount IMAGE DIR [-f] [-d] [-s] [-o OPTION[,OPTION...]]...
 *
 * Unless -f is given the caller returns as soon as the mount answers requests, or with the reason
 * on stderr and a status other than 0 when there will be no mount; a second process serves it.
 * The exit status is the command line's (0 ok, 1 failed, 2 usage, 3 unsupported, 4 busy,
 * 5 corrupt, 6 journal not replayable).
 *
 * With an @argv[0] whose last component starts with "mount." the arguments are those of a helper of
 * mount(8), `IMAGE DIR [-sfnv] [-o OPTIONS] [-t TYPE]`, and the status is made of its bits.
 */
int uext4_mount_main(int argc, char **argv);

/*
 * For a program that uses an image itself and shows it at a directory too; it may map files
 * (uext4_mmap()) of what others read and write there.
 *
 * The kernel keeps no names, attributes and sizes here, and writes come at once.  It keeps pages of
 * files that are open, but of none that is mapped: to map one that somebody has had open since
 * before is -EBUSY, until he closes it.  While a file is mapped both sides see what the other has
 * stored or written at once.  What the program writes by calls to a file that is not mapped shows
 * to who opens it afterwards, and, as far as its times tell, to who has it open.
 *
 * A mapped file cannot be mapped shared there (ENODEV); private pages, those of execve(2) too, do
 * not follow it.  With O_APPEND is written to where the file ended when the kernel last looked.
 */
struct uext4_fs;
struct uext4_mount;

/*
 * Mounts @fs, which stays the caller's, at @dir; threads of this process answer.  Nothing is mapped
 * yet (-EBUSY); it has its map hook from now on.  @options: as after -o, NULL is fine; those that
 * say how an image is opened mean nothing.  0, or a negative errno, with the reason on stderr.
 */
int uext4_mount_start(struct uext4_fs *fs, const char *dir, const char *options,
		      struct uext4_mount **ret_mount);
/*
 * Unmounts and frees, before @fs is closed; mappings may stay.  -EBUSY: somebody works there, and
 * the mount goes on.
 */
int uext4_mount_stop(struct uext4_mount *mount);

#endif
