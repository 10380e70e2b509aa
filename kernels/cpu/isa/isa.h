/**
 * @file isa.h
 * How a file of kernels/cpu/isa/ names what it exports: ISA_NAME(rmsnorm) is rmsnorm_avx2 when compiled with
 * -DCPU_ISA=avx2.
 */
#ifndef QST_KERNELS_CPU_ISA_H
#define QST_KERNELS_CPU_ISA_H

#define ISA_JOIN_(name, isa) name##_##isa
#define ISA_JOIN(name, isa)  ISA_JOIN_(name, isa)
#define ISA_NAME(name)       ISA_JOIN(name, CPU_ISA)

#endif
