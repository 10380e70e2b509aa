/* A sweep as a table, as JSON and as a picture. */
#include "base/error.h"
#include "base/memory.h"
#include "plan_sweep.h"
#include "report_plot.h"

static const char *const scaling_names[SWEEP_SCALINGS] = {"strong", "weak"};

/* ---- table ---------------------------------------------------------------------------------------------- */

static int print_scaling(const struct sweep *sweep, bool weak, struct buffer *out) {
  TRY(buffer_print(out, "%s scaling: tokens/s and efficiency\n%8s %8s", scaling_names[weak], "nodes", "ranks"));
  for (int v = 0; v < SWEEP_VARIANTS; v++) TRY(buffer_print(out, "  %24s", sweep_variant_name(v)));
  TRY(buffer_print(out, "\n"));
  for (int i = 0; i < sweep->count; i++) {
    const struct sweep_point *first = sweep_at(sweep, weak, 0, i);
    TRY(buffer_print(out, "%8d %8d", first->nodes, first->ranks));
    for (int v = 0; v < SWEEP_VARIANTS; v++) {
      const struct sweep_point *point = sweep_at(sweep, weak, v, i);
      TRY(buffer_print(out, "  %15.0f %6.1f %%", point->tokens_per_second, 100 * point->efficiency));
    }
    TRY(buffer_print(out, "\n"));
  }
  return OK;
}

static int print_left_out(const struct sweep *sweep, struct buffer *out) {
  if (sweep->node_unit == 1) return OK;
  return buffer_print(out,
                      "left out   whole nodes other than multiples of %d: their ranks do not divide into the stages\n",
                      sweep->node_unit);
}

static int print_too_large(const struct sweep *sweep, struct buffer *out) {
  int all = SWEEP_SCALINGS * SWEEP_VARIANTS * sweep->count;
  if (sweep->too_large == 0) return OK;
  return buffer_print(out, "memory     %d of these %d points DO NOT FIT: plan without --sweep says what would\n",
                      sweep->too_large, all);
}

int sweep_print(const struct sweep *sweep, struct buffer *out) {
  for (int weak = 0; weak < SWEEP_SCALINGS; weak++) TRY(print_scaling(sweep, weak, out));
  TRY(print_left_out(sweep, out));
  TRY(print_too_large(sweep, out));
  for (int i = 0; i < sweep->measured_count; i++) {
    const struct measured_point *point = &sweep->measured[i];
    TRY(buffer_print(out, "measured   %s, %d ranks (%d stage%s): %.1f tokens/s, the plan says %.1f (%+.1f %%)\n",
                     scaling_names[point->weak], point->ranks, point->stages, point->stages == 1 ? "" : "s",
                     point->tokens_per_second, point->planned, 100 * (point->planned / point->tokens_per_second - 1)));
  }
  return OK;
}

/* ---- JSON ----------------------------------------------------------------------------------------------- */

static json_t *variant_json(const struct sweep *sweep, bool weak, int variant) {
  json_t *points = json_array();
  for (int i = 0; i < sweep->count; i++) {
    const struct sweep_point *point = sweep_at(sweep, weak, variant, i);
    json_array_append_new(points, json_pack("{s:i, s:i, s:f, s:f, s:b}", "nodes", point->nodes, "ranks", point->ranks,
                                            "tokens_per_second", point->tokens_per_second, "efficiency",
                                            point->efficiency, "fits", point->fits));
  }
  return json_pack("{s:s, s:s, s:o}", "scaling", scaling_names[weak], "variant", sweep_variant_name(variant), "points",
                   points);
}

json_t *sweep_json(const struct plan_request *request, const struct sweep *sweep) {
  json_t *curves = json_array(), *measured = json_array();
  for (int weak = 0; weak < SWEEP_SCALINGS; weak++)
    for (int v = 0; v < SWEEP_VARIANTS; v++) json_array_append_new(curves, variant_json(sweep, weak, v));
  for (int i = 0; i < sweep->measured_count; i++) {
    const struct measured_point *point = &sweep->measured[i];
    json_array_append_new(measured, json_pack("{s:s, s:i, s:i, s:f, s:f}", "scaling", scaling_names[point->weak],
                                              "ranks", point->ranks, "stages", point->stages, "tokens_per_second",
                                              point->tokens_per_second, "planned", point->planned));
  }
  const struct options *options = request->options;
  return json_pack("{s:s, s:s, s:i, s:i, s:i, s:o, s:o}", "model",
                   options->model_shape ? options->model_shape : options->backbone, "gpu",
                   request->machine.hardware.name, "gpus_per_node", request->machine.per_node, "stages",
                   request->stages, "node_multiple", sweep->node_unit, "curves", curves, "measured", measured);
}

/* ---- picture -------------------------------------------------------------------------------------------- */

/* Okabe and Ito (2008): told apart with any colour vision. */
static const char *const COLORS[SWEEP_VARIANTS] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7"};

static int print_blocks(const struct sweep *sweep, bool weak, struct buffer *out) {
  for (int v = 0; v < SWEEP_VARIANTS; v++) {
    TRY(buffer_print(out, "$c%d_%d << END\n", weak, v));
    for (int i = 0; i < sweep->count; i++) {
      const struct sweep_point *point = sweep_at(sweep, weak, v, i);
      TRY(buffer_print(out, "%d %.9g\n", point->ranks, point->tokens_per_second));
    }
    TRY(buffer_print(out, "END\n"));
  }
  TRY(buffer_print(out, "$m%d << END\nNaN NaN\n", weak));
  for (int i = 0; i < sweep->measured_count; i++)
    if (sweep->measured[i].weak == weak)
      TRY(buffer_print(out, "%d %.9g\n", sweep->measured[i].ranks, sweep->measured[i].tokens_per_second));
  return buffer_print(out, "END\n");
}

static int print_panel(const struct sweep *sweep, bool weak, struct buffer *out) {
  const struct sweep_point *first = sweep_at(sweep, weak, 0, 0);
  TRY(buffer_print(out, "set title '%s scaling'\nplot %.9g * x title 'in proportion' lc rgb '#999999' dt 2",
                   scaling_names[weak], first->tokens_per_second / first->ranks));
  for (int v = 0; v < SWEEP_VARIANTS; v++)
    TRY(buffer_print(out, ", $c%d_%d with linespoints pt 7 ps 0.3 lw 1.5 lc rgb '%s' title '%s'", weak, v, COLORS[v],
                     sweep_variant_name(v)));
  return buffer_print(out, ", $m%d with points pt 6 ps 1.2 lw 2 lc rgb 'black' title 'measured'\n", weak);
}

int sweep_draw(const struct plan_request *request, const struct sweep *sweep, bool *drawn, struct buffer *out) {
  struct buffer script = {0};
  const struct options *options = request->options;
  int status;
  TRY_GOTO(status, cleanup,
           buffer_print(&script,
                        "set terminal svg size 1100,460 noenhanced background rgb 'white' font 'sans,11'\n"
                        "set multiplot layout 1,2 title \"%s on %s, as planned\"\n"
                        "set logscale xy\nset grid lc rgb '#dddddd' lt 1\nset tics nomirror\nset border 3\n"
                        "set key left top\nset xlabel 'ranks'\nset ylabel 'tokens/s'\nset xrange [%d:%d]\n",
                        options->model_shape ? options->model_shape : "the backbone", request->machine.hardware.name,
                        sweep_at(sweep, false, 0, 0)->ranks, sweep_at(sweep, false, 0, sweep->count - 1)->ranks));
  for (int weak = 0; weak < SWEEP_SCALINGS; weak++) {
    TRY_GOTO(status, cleanup, print_blocks(sweep, weak, &script));
    TRY_GOTO(status, cleanup, print_panel(sweep, weak, &script));
  }
  TRY_GOTO(status, cleanup, buffer_print(&script, "unset multiplot\n"));
  status = plot_script(&script, drawn, out);
cleanup:
  buffer_free(&script);
  return status;
}
