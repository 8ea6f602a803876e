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

#endif
