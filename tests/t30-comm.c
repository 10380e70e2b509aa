/* Collectives and messages against what one rank can compute alone, at sizes from nothing to several pieces. */
#include <stdlib.h>

#include "base/memory.h"
#include "check.h"
#include "comm/comm.h"

// RUN ranks=1,2,3

/* The value of rank r at position i: large enough that a sum in floating point would lose bits. */
static int64_t value_of(int rank, size_t i) {
  return ((int64_t)1 << 53) + (int64_t)(i % 97) * (rank + 1) - (rank == 1 ? (int64_t)1 << 60 : 0);
}

static void test_reduce(struct comm *comm, size_t count) {
  int64_t *sums, *largest;
  CHECK_OK(memory_array(&sums, count, sizeof *sums));
  CHECK_OK(memory_array(&largest, count, sizeof *largest));
  for (size_t i = 0; i < count; i++) sums[i] = largest[i] = value_of(comm->rank, i);
  CHECK_OK(comm_sum_i64(comm, sums, count));
  CHECK_OK(comm_max_i64(comm, largest, count));
  size_t wrong = 0;
  for (size_t i = 0; i < count; i++) {
    int64_t sum = 0, most = INT64_MIN;
    for (int rank = 0; rank < comm->size; rank++) {
      sum += value_of(rank, i);
      if (value_of(rank, i) > most) most = value_of(rank, i);
    }
    wrong += sums[i] != sum || largest[i] != most;
  }
  CHECK(wrong == 0);
  free(sums);
  free(largest);
}

static unsigned char byte_of(int rank, size_t i) {
  return (unsigned char)(i * 31 + (i >> 20) + (size_t)rank * 101 + 7);
}

static size_t wrong_bytes(const unsigned char *bytes, size_t size, int rank) {
  size_t wrong = 0;
  for (size_t i = 0; i < size; i++) wrong += bytes[i] != byte_of(rank, i);
  return wrong;
}

static void fill(unsigned char *bytes, size_t size, int rank) {
  for (size_t i = 0; i < size; i++) bytes[i] = byte_of(rank, i);
}

static void test_broadcast(struct comm *comm, unsigned char *bytes, size_t size) {
  for (int root = 0; root < comm->size; root++) {
    memset(bytes, 0, size);
    if (comm->rank == root) fill(bytes, size, root);
    CHECK_OK(comm_broadcast(comm, bytes, size, root));
    CHECK(wrong_bytes(bytes, size, root) == 0);
  }
}

/* A token goes round: each rank hands its neighbour what it got. */
static void test_messages(struct comm *comm, unsigned char *bytes, size_t size) {
  if (comm->size == 1) return;
  int next = (comm->rank + 1) % comm->size, last = (comm->rank + comm->size - 1) % comm->size;
  memset(bytes, 0, size);
  if (comm->rank == 0) {
    fill(bytes, size, 5);
    CHECK_OK(comm_send(comm, bytes, size, next));
    memset(bytes, 0, size);
  }
  CHECK_OK(comm_receive(comm, bytes, size, last));
  if (comm->rank != 0) CHECK_OK(comm_send(comm, bytes, size, next));
  CHECK(wrong_bytes(bytes, size, 5) == 0);
}

static void test_bytes(struct comm *comm, size_t size) {
  unsigned char *bytes;
  CHECK_OK(memory_array(&bytes, size, 1));
  test_broadcast(comm, bytes, size);
  test_messages(comm, bytes, size);
  free(bytes);
}

/* What would hang or break MPI is refused before it gets there. */
static void test_refusals(struct comm *comm) {
  char byte = 0;
  CHECK_FAILS(ERR_INTERNAL, "broadcast", comm_broadcast(comm, &byte, 1, comm->size));
  CHECK_FAILS(ERR_INTERNAL, "message", comm_send(comm, &byte, 1, comm->rank));
  CHECK_FAILS(ERR_INTERNAL, "message", comm_receive(comm, &byte, 1, -1));
}

static void test_place(const struct comm *comm) {
  const char *launched = getenv("OMPI_COMM_WORLD_SIZE");
  CHECK(comm->size == (launched ? atoi(launched) : 1) && comm->rank >= 0 && comm->rank < comm->size);
  CHECK(strcmp(comm->name, launched ? "mpi" : "self") == 0 && comm_launcher_rank() == comm->rank);
  CHECK(comm->local_size == comm->size && comm->local_rank == comm->rank && comm->host[0]);
}

int main(void) {
  struct comm *comm;
  CHECK_OK(comm_open(&comm));
  if (!comm) return 1;
  test_place(comm);
  for (size_t count = 0; count < 100000; count = count * 7 + 1) test_reduce(comm, count);
  test_reduce(comm, (1 << 23) + 5);
  for (size_t size = 0; size < 1000000; size = size * 9 + 1) test_bytes(comm, size);
  test_bytes(comm, ((size_t)1 << 27) + 3);
  test_refusals(comm);
  CHECK_OK(comm_barrier(comm));
  comm_close(&comm);
  CHECK(!comm);
  comm_close(&comm);
  return check_result();
}
