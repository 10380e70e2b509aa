/* What squeue says of the time that is left. */
#include "check.h"
#include "time_limit.h"

int main(void) {
  CHECK(time_limit_parse("0:07\n") == 7);
  CHECK(time_limit_parse("59:30") == 59 * 60 + 30);
  CHECK(time_limit_parse(" 12:00:01\n") == 12 * 3600 + 1);
  CHECK(time_limit_parse("2-01:00:00\n") == 2 * 86400 + 3600);
  static const char *const none[] = {"", "\n", "UNLIMITED\n", "INVALID", "NOT_SET", "7", "1:2:3:4", "3-", "1:00x", "-"};
  for (unsigned i = 0; i < sizeof none / sizeof *none; i++) CHECK(time_limit_parse(none[i]) == -1);
  return check_result();
}
