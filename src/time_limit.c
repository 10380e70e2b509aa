#include "time_limit.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"

static const double first_save = 30, end_of_job = 15; /* seconds, see time_limit.h */
static const double ask_again = 60;                   /* seconds between two questions to Slurm at least */

static struct {
  double end;     /* Unix time; 0: no limit is known */
  double given;   /* the end by --time-limit, which no other moves; 0: none */
  bool asks;      /* the end is Slurm's and may be moved */
  double asked;   /* clock_seconds() at the last question whether it was; 0: none yet */
  double began;   /* clock_seconds() at the last call of time_limit_near(); 0: none yet */
  double longest; /* seconds of the longest step */
  double save;    /* seconds of the longest save; 0: none yet */
} limit;

double time_limit_parse(const char *text) {
  char *rest;
  double days = 0, seconds = (double)strtol(text, &rest, 10);
  if (rest != text && *rest == '-') {
    days = seconds;
    text = rest + 1;
    seconds = (double)strtol(text, &rest, 10);
  }
  int fields = rest != text;
  for (; *rest == ':'; fields++) seconds = 60 * seconds + (double)strtol(rest + 1, &rest, 10);
  bool whole = *rest == '\0' || *rest == '\n' || *rest == ' ';
  return whole && fields >= 2 && fields <= 3 ? 86400 * days + seconds : -1;
}

/* Unix time of the end of this Slurm job, 0 when unknown or never. squeue waits for a controller that is busy. */
static double ask_slurm(void) {
  const char *id = getenv("SLURM_JOB_ID");
  if (!id) return 0;
  char command[128], line[64] = "";
  snprintf(command, sizeof command, "timeout 10 squeue --noheader --jobs=%lld --format=%%L 2>/dev/null",
           strtoll(id, NULL, 10));
  FILE *answer = popen(command, "r");
  if (!answer) return 0;
  if (!fgets(line, sizeof line, answer)) line[0] = '\0';
  pclose(answer);
  double left = time_limit_parse(line);
  return left < 0 ? 0 : (double)time(NULL) + left;
}

static double end_of_slurm_job(void) {
  const char *text = getenv("SLURM_JOB_END_TIME");
  double end = text ? (double)strtoll(text, NULL, 10) : 0;
  return end > 0 ? end : ask_slurm();
}

void time_limit_start(double minutes) {
  double now = (double)time(NULL);
  limit.end = end_of_slurm_job();
  limit.asks = minutes <= 0 || (limit.end > 0 && limit.end < now + 60 * minutes);
  limit.given = minutes > 0 ? now + 60 * minutes : 0;
  if (!limit.asks) limit.end = limit.given;
  if (limit.end == 0) return;
  char left[24];
  clock_format(limit.end - now, left);
  log_note("time       %s until the job ends", left);
}

static bool is_near(void) {
  double save = limit.save > 0 ? 2 * limit.save : first_save;
  return (double)time(NULL) + 1.2 * limit.longest + save + end_of_job > limit.end;
}

/* Somebody may have given the job more time since it began. */
static void look_again(double now) {
  if (!limit.asks || (limit.asked > 0 && now - limit.asked < ask_again)) return;
  limit.asked = now;
  double end = ask_slurm();
  if (limit.given > 0 && end > limit.given) end = limit.given;
  if (end > limit.end) limit.end = end;
}

bool time_limit_near(void) {
  double now = clock_seconds();
  bool first = limit.began == 0;
  if (!first && now - limit.began > limit.longest) limit.longest = now - limit.began;
  limit.began = now;
  if (first || limit.end == 0 || !is_near()) return false;
  look_again(now);
  return is_near();
}

void time_limit_saved(double seconds) {
  if (seconds > limit.save) limit.save = seconds;
}
