/**
 * @file library.h
 * NCCL without linking it: library.c defines the functions that are called here and passes them on to the library, which is
 * loaded when the first communicator of several ranks opens. A machine with one GPU needs none.
 */
#ifndef QST_COMM_NCCL_LIBRARY_H
#define QST_COMM_NCCL_LIBRARY_H

#include <nccl.h>

/** ERR_SYSTEM when the library can't be loaded, is too old or lacks a function. Once is enough, more do nothing. */
int nccl_load(void);

/** What nccl_load() asks: ERR_SYSTEM when the library is older than what is called here, saying both versions. */
int nccl_check_version(void);
/** "2.28.9"; "" before the library was loaded. */
const char *nccl_version(void);

#endif
