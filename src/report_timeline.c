#include "report_timeline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "io/json_read.h"
#include "report_page.h"

enum {
  STEPS = 4,      /* that are shown, the last ones */
  MOST_RANKS = 64 /* that are shown: a page with more would be nothing to look at */
};
enum { WIDTH = 1080, LEFT = 150, BAR = 15, ROW = 19, AXIS = 24 };

static const uint64_t FILE_LIMIT = (uint64_t)1 << 30;

enum { LANES = 2 };
static const char *const lane_names[LANES] = {"backbone", "side"};

static const struct kind {
  const char *name, *color;
} kinds[] = {{"taps", "#8fb8de"}, {"forward", "#7fc08a"}, {"backward", "#e0a458"}, {"update", "#b5524c"}};
enum { KINDS = sizeof kinds / sizeof *kinds };

struct bar {
  int rank, lane, kind;
  long long index;
  double begin, end; /* seconds */
};

struct timeline {
  struct bar *bars;
  size_t count;
  int ranks;
  double begin, end; /* what is shown */
};

/* ---- reading -------------------------------------------------------------------------------------------- */

static int kind_of(const char *name) {
  for (int kind = 0; name && kind < KINDS; kind++)
    if (strcmp(name, kinds[kind].name) == 0) return kind;
  return -1;
}

static int read_bar(const json_t *event, struct bar *out) {
  json_int_t rank = json_integer_value(json_object_get(event, "pid"));
  json_int_t lane = json_integer_value(json_object_get(event, "tid"));
  double begin = json_number_value(json_object_get(event, "ts")),
         length = json_number_value(json_object_get(event, "dur"));
  int kind = kind_of(json_text(event, "name"));
  if (rank < 0 || rank > INT32_MAX || lane < 0 || lane >= LANES || kind < 0 || !isfinite(begin) || !(length >= 0))
    return fail(ERR_INPUT, "has an event that train does not write");
  *out = (struct bar){.rank = (int)rank,
                      .lane = (int)lane,
                      .kind = kind,
                      .index = json_integer_value(json_object_get(json_object_get(event, "args"), "index")),
                      .begin = 1e-6 * begin,
                      .end = 1e-6 * (begin + length)};
  return OK;
}

static int read_events(const json_t *events, struct timeline *out) {
  size_t count = json_array_size(events);
  if (count == 0) return fail(ERR_INPUT, "is no timeline: give a file that train --trace wrote");
  TRY(memory_array(&out->bars, count, sizeof *out->bars));
  for (size_t i = 0; i < count; i++) {
    const json_t *event = json_array_get(events, i);
    const char *phase = json_text(event, "ph");
    if (!phase || strcmp(phase, "X") != 0) continue;
    TRY(read_bar(event, &out->bars[out->count]));
    const struct bar *bar = &out->bars[out->count++];
    if (bar->rank < MOST_RANKS && bar->rank >= out->ranks) out->ranks = bar->rank + 1;
  }
  return out->count ? OK : fail(ERR_INPUT, "has no tasks: the run did not finish a step");
}

/* From the end of an update of the first rank to the end of its last. */
static void choose_window(struct timeline *timeline) {
  double ends[STEPS + 1] = {0};
  int updates = 0;
  for (size_t i = 0; i < timeline->count; i++) {
    const struct bar *bar = &timeline->bars[i];
    if (bar->end > timeline->end) timeline->end = bar->end;
    if (bar->rank == 0 && strcmp(kinds[bar->kind].name, "update") == 0) ends[updates++ % (STEPS + 1)] = bar->end;
  }
  if (updates == 0) return;
  timeline->end = ends[(updates - 1) % (STEPS + 1)];
  if (updates > STEPS) timeline->begin = ends[updates % (STEPS + 1)];
}

static int read_timeline(const char *path, struct timeline *out) {
  struct buffer file = {0};
  json_t *events = NULL;
  int status;
  TRY_GOTO(status, cleanup, file_read(path, FILE_LIMIT, &file));
  TRY_GOTO(status, cleanup, fail_at(json_read(file.data, file.size, &events), "%s", path));
  status = fail_at(read_events(events, out), "%s", path);
  choose_window(out);
cleanup:
  json_decref(events);
  buffer_free(&file);
  return status;
}

/* ---- drawing -------------------------------------------------------------------------------------------- */

static double x_of(const struct timeline *timeline, double seconds) {
  return LEFT + (WIDTH - LEFT) * (seconds - timeline->begin) / (timeline->end - timeline->begin);
}

static bool is_shown(const struct timeline *timeline, const struct bar *bar) {
  return bar->rank < timeline->ranks && bar->end > timeline->begin && bar->begin < timeline->end;
}

static int draw_bar(const struct timeline *timeline, const struct bar *bar, struct buffer *out) {
  double begin = fmax(bar->begin, timeline->begin), end = fmin(bar->end, timeline->end);
  return buffer_print(
      out,
      "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"%s\"><title>%s %lld: %.3f ms</title></rect>\n",
      x_of(timeline, begin), (bar->rank * LANES + bar->lane) * ROW, x_of(timeline, end) - x_of(timeline, begin), BAR,
      kinds[bar->kind].color, kinds[bar->kind].name, bar->index, 1e3 * (bar->end - bar->begin));
}

static int draw_axis(const struct timeline *timeline, int height, struct buffer *out) {
  enum { TICKS = 8 };
  for (int i = 0; i <= TICKS; i++) {
    double at = timeline->begin + (timeline->end - timeline->begin) * i / TICKS;
    TRY(buffer_print(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%.3g s</text>\n", x_of(timeline, at),
                     height + 16, i == TICKS ? "end" : "middle", at));
  }
  return OK;
}

static int draw(const struct timeline *timeline, struct buffer *out) {
  int height = timeline->ranks * LANES * ROW;
  TRY(buffer_print(out, "<svg class=\"timeline\" viewBox=\"0 0 %d %d\" font-size=\"12\">\n", WIDTH, height + AXIS));
  for (int row = 0; row < timeline->ranks * LANES; row++)
    TRY(buffer_print(out, "<text x=\"0\" y=\"%d\">rank %d, %s</text>\n", row * ROW + BAR - 3, row / LANES,
                     lane_names[row % LANES]));
  for (size_t i = 0; i < timeline->count; i++)
    if (is_shown(timeline, &timeline->bars[i])) TRY(draw_bar(timeline, &timeline->bars[i], out));
  TRY(draw_axis(timeline, height, out));
  return buffer_print(out, "</svg>\n");
}

static int legend(struct buffer *out) {
  TRY(buffer_print(out, "<p>"));
  for (int kind = 0; kind < KINDS; kind++)
    TRY(buffer_print(out, "<span style=\"background:%s\">&emsp;</span> %s &ensp;", kinds[kind].color,
                     kinds[kind].name));
  return buffer_print(out, "</p>\n");
}

/* ---- how busy ------------------------------------------------------------------------------------------- */

/* Part of the shown time in which a lane has a task, in percent. Tasks of one lane do not overlap; those of two may be cut
 * into each other, where a core runs both. */
static double share_of(const struct timeline *timeline, int rank, int lane) {
  double busy = 0;
  for (size_t i = 0; i < timeline->count; i++) {
    const struct bar *bar = &timeline->bars[i];
    if (bar->rank == rank && bar->lane == lane && is_shown(timeline, bar))
      busy += fmin(bar->end, timeline->end) - fmax(bar->begin, timeline->begin);
  }
  return 100 * busy / (timeline->end - timeline->begin);
}

static int shares(const struct timeline *timeline, struct buffer *out) {
  TRY(buffer_print(
      out, "<table><thead><tr><th>busy, %%</th><th>backbone lane</th><th>side lane</th></tr></thead>\n<tbody>"));
  for (int rank = 0; rank < timeline->ranks; rank++)
    TRY(buffer_print(out, "<tr><td>rank %d</td><td>%.1f</td><td>%.1f</td></tr>\n", rank, share_of(timeline, rank, 0),
                     share_of(timeline, rank, 1)));
  return buffer_print(out, "</tbody></table>\n");
}

static int print_timeline(const struct timeline *timeline, struct buffer *out) {
  if (!(timeline->end > timeline->begin)) return fail(ERR_INPUT, "all its tasks take no time");
  TRY(buffer_print(out, "<h2>Timeline of the last steps</h2>\n"));
  TRY(legend(out));
  TRY(draw(timeline, out));
  return shares(timeline, out);
}

int report_timeline(const char *path, struct buffer *out) {
  struct timeline timeline = {0};
  int status = read_timeline(path, &timeline);
  if (status == OK) status = fail_at(print_timeline(&timeline, out), "%s", path);
  free(timeline.bars);
  return status;
}
