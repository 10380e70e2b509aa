/* The error path: the line recorded, places put in front, control characters hidden, over-long lines cut. */
#include <stdlib.h>

#include "base/memory.h"
#include "check.h"

static int find_fault(int depth) {
  if (depth == 0) return fail(ERR_INPUT, "byte %d is wrong", 7);
  TRY(find_fault(depth - 1));
  return OK;
}

static int owner(int *freed) {
  int status;
  TRY_GOTO(status, cleanup, find_fault(2));
  status = ERR_INTERNAL;
cleanup:
  *freed = 1;
  return status;
}

static void test_passing(void) {
  int freed = 0;
  CHECK_FAILS(ERR_INPUT, "byte 7 is wrong", owner(&freed));
  CHECK(freed);
  CHECK_FAILS(ERR_INPUT, "x.h5: tensor 3: byte 7 is wrong", fail_at(fail_at(owner(&freed), "tensor %d", 3), "x.h5"));
  CHECK_OK(fail_at(OK, "nowhere"));
  CHECK(strcmp(fail_message(), "x.h5: tensor 3: byte 7 is wrong") == 0);
}

static void test_one_line(void) {
  CHECK(fail(ERR_INPUT, "a\nb\033[2J%s", "\r") == ERR_INPUT);
  CHECK(strcmp(fail_message(), "a?b?[2J?") == 0);
  fail_at(ERR_INPUT, "pa\nth");
  CHECK(strcmp(fail_message(), "pa?th: a?b?[2J?") == 0);
}

static void test_long_line(void) {
  char text[3 * ERROR_LINE];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = 0;
  CHECK(fail(ERR_INPUT, "%s", text) == ERR_INPUT);
  CHECK(strlen(fail_message()) == ERROR_LINE - 1);
  fail_at(ERR_INPUT, "place");
  CHECK(strlen(fail_message()) == ERROR_LINE - 1 && strncmp(fail_message(), "place: x", 8) == 0);
  fail_at(ERR_INPUT, "%s", text);
  CHECK(strlen(fail_message()) == ERROR_LINE - 1);
}

static void test_memory(void) {
  void *block = NULL;
  CHECK_FAILS(ERR_MEMORY, "larger than any memory", memory_array(&block, SIZE_MAX / 2, 3));
  CHECK_FAILS(ERR_MEMORY, "not enough memory", memory_array(&block, SIZE_MAX / 16, 1));
  CHECK_OK(memory_array(&block, 0, 8));
  CHECK(block != NULL && (uintptr_t)block % 64 == 0);
  free(block);
}

static void test_buffer(void) {
  struct buffer buffer = {0};
  CHECK_OK(buffer_append(&buffer, "ab\0c", 4));
  for (int i = 0; i < 1000; i++) CHECK_OK(buffer_print(&buffer, "%d,", i));
  CHECK(buffer.size == 4 + 3890 && memcmp(buffer.data, "ab\0c0,1,", 8) == 0 && buffer.data[buffer.size] == 0);
  CHECK_FAILS(ERR_MEMORY, "larger than any memory", buffer_append(&buffer, "", SIZE_MAX / 2));
  buffer_clear(&buffer);
  CHECK(buffer.size == 0 && buffer.data[0] == 0);
  buffer_free(&buffer);
  CHECK(!buffer.data && buffer.capacity == 0);
}

int main(void) {
  test_passing();
  test_one_line();
  test_long_line();
  test_memory();
  test_buffer();
  return check_result();
}
