/**
 * @file cublaslt.h
 * cuBLASLt without linking it: cublaslt.c defines the functions that task.c calls and passes them on to the library,
 * which is loaded when the first device opens.
 */
#ifndef QST_KERNELS_CUDA_CUBLASLT_H
#define QST_KERNELS_CUDA_CUBLASLT_H

#include <cublasLt.h>

/** ERR_SYSTEM when the library can't be loaded or lacks a function. Once is enough, more do nothing. */
int cublaslt_load(void);

#endif
