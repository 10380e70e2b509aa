#include "base/random.h"

#include <math.h>

static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

struct random random_start(uint64_t seed, enum random_purpose purpose, uint64_t index) {
  return (struct random){mix(mix(mix(seed + 1) + (uint64_t)purpose) + index)};
}

uint64_t random_next(struct random *random) {
  random->state += 0x9e3779b97f4a7c15u;
  return mix(random->state);
}

uint64_t random_below(struct random *random, uint64_t bound) {
  uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
  uint64_t value;
  do {
    value = random_next(random);
  } while (value >= limit);
  return value % bound;
}

double random_unit(struct random *random) {
  return (double)(random_next(random) >> 11) * 0x1p-53;
}

double random_normal(struct random *random) {
  double radius = sqrt(-2 * log(1 - random_unit(random)));
  return radius * cos(6.283185307179586 * random_unit(random));
}
