/**
 * @file random.h
 * Random numbers that depend on a seed, a purpose and an index alone: SplitMix64 (Steele, Lea and Flood 2014) as a
 * counter-based generator, so that nothing has to be saved to resume.
 */
#ifndef QST_BASE_RANDOM_H
#define QST_BASE_RANDOM_H

#include <stdint.h>

enum random_purpose { RANDOM_DATA_ORDER = 1, RANDOM_SIDE_INIT = 2, RANDOM_SAMPLING = 3 };

struct random {
  uint64_t state;
};

struct random random_start(uint64_t seed, enum random_purpose purpose, uint64_t index);
uint64_t random_next(struct random *random);
/** Uniform in [0, bound), bound > 0, without modulo bias. */
uint64_t random_below(struct random *random, uint64_t bound);
/** Uniform in [0, 1). */
double random_unit(struct random *random);
/** Normal, mean 0 and variance 1 (Box-Muller). */
double random_normal(struct random *random);

#endif
