/**
 * @file library.h
 * NCCL without linking it: library.c defines the functions that are called here and passes them on to the library, which is
 * loaded when the first communicator of several ranks opens. A machine with one GPU needs none.
 */
#ifndef QST_COMM_NCCL_LIBRARY_H
#define QST_COMM_NCCL_LIBRARY_H

#include <nccl.h>

/** ERR_SYSTEM when the library can't be loaded or lacks a function. Once is enough, more do nothing. */
int nccl_load(void);

#endif
