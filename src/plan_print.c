#include "plan_print.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"

static const char *const memory_names[MEMORY_KINDS] = {
    [MEMORY_WEIGHTS] = "weights",
    [MEMORY_TAPS] = "taps",
    [MEMORY_SIDE] = "side",
    [MEMORY_OPTIMIZER] = "optimizer",
    [MEMORY_COMMUNICATION] = "communication",
    [MEMORY_WORKSPACE] = "workspace",
};

static const char *model_name(const struct options *options) {
  return options->model_shape ? options->model_shape : options->backbone;
}

/* "35.3 GB", or MB below one of them */
static void format_bytes(double bytes, char out[24]) {
  snprintf(out, 24, bytes < 1e9 ? "%.1f MB" : "%.2f GB", bytes < 1e9 ? bytes / 1e6 : bytes / 1e9);
}

/* ---- text ----------------------------------------------------------------------------------------------- */

static int print_memory(const struct plan *plan, const struct plan_stage *stage, struct buffer *out) {
  char text[24];
  for (int kind = 0; kind < MEMORY_KINDS; kind++) {
    format_bytes((double)stage->memory[kind], text);
    TRY(buffer_print(out, "%s%s %s", kind ? ", " : "", memory_names[kind], text));
  }
  format_bytes((double)stage->bytes, text);
  TRY(buffer_print(out, ": %s", text));
  if (plan->usable <= 0) return buffer_print(out, "\n");
  format_bytes(plan->usable, text);
  return buffer_print(out, " of %s%s\n", text, (double)stage->bytes > plan->usable ? ", DOES NOT FIT" : "");
}

static int print_stage(const struct plan *plan, int p, struct buffer *out) {
  const struct plan_stage *stage = &plan->stage[p];
  char gradients[24], messages[24];
  if (plan->stages > 1) TRY(buffer_print(out, "stage %d    %d layers\n", p, stage->layers));
  TRY(buffer_print(out, "memory     "));
  TRY(print_memory(plan, stage, out));
  TRY(buffer_print(
      out, "time       backbone %.3f s, side network %.3f s, optimizer %.3f s, reduction %.3f s (%.3f s of it seen)\n",
      stage->backbone, stage->side, stage->optimizer, stage->reduction, stage->exposed));
  format_bytes(stage->gradient_wire, gradients);
  format_bytes(stage->message_wire, messages);
  return buffer_print(out, "wire       gradients %s, messages between stages %s a step and rank\n", gradients,
                      messages);
}

int plan_print(const struct plan_request *request, const struct plan *plan, struct buffer *out) {
  const struct machine *machine = &request->machine;
  char took[24];
  TRY(buffer_print(out, "plan       %s on %d x %d %s: %d replica%s of %d stage%s, micro-batches of %lld tokens%s%s\n",
                   model_name(request->options), machine->nodes, machine->per_node, machine->hardware.name,
                   plan->replicas, plan->replicas == 1 ? "" : "s", plan->stages, plan->stages == 1 ? "" : "s",
                   (long long)request->options->micro_batch_tokens, request->options->recompute ? ", recompute" : "",
                   request->options->run_ahead ? "" : ", no run-ahead"));
  for (int p = 0; p < plan->stages; p++) TRY(print_stage(plan, p, out));
  TRY(buffer_print(out,
                   "step       %.3f s: %lld tokens, %lld with a label, %d micro-batch%s a replica; bubble %.1f %%\n",
                   plan->step, (long long)plan->step_tokens, (long long)plan->label_tokens, plan->micro_batches,
                   plan->micro_batches == 1 ? "" : "es", 100 * plan->bubble));
  TRY(buffer_print(out, "speed      %.0f tokens/s, %.0f a rank, %.0f %% of the bf16 peak\n", plan->tokens_per_second,
                   plan->tokens_per_second / plan_ranks(request), 100 * plan->of_peak));
  clock_format(plan->seconds, took);
  return buffer_print(out, "run        %lld steps, %s\n", (long long)plan->steps, took);
}

/* ---- JSON ----------------------------------------------------------------------------------------------- */

static json_t *stage_json(const struct plan_stage *stage) {
  json_t *memory = json_object();
  for (int kind = 0; kind < MEMORY_KINDS; kind++)
    json_object_set_new(memory, memory_names[kind], json_integer((json_int_t)stage->memory[kind]));
  return json_pack("{s:i, s:o, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "layers", stage->layers, "memory", memory,
                   "bytes", (json_int_t)stage->bytes, "backbone_seconds", stage->backbone, "side_seconds", stage->side,
                   "optimizer_seconds", stage->optimizer, "reduction_seconds", stage->reduction,
                   "exposed_reduction_seconds", stage->exposed, "gradient_wire_bytes", stage->gradient_wire,
                   "message_wire_bytes", stage->message_wire);
}

json_t *plan_json(const struct plan_request *request, const struct plan *plan) {
  const struct machine *machine = &request->machine;
  json_t *stages = json_array();
  for (int p = 0; p < plan->stages; p++) json_array_append_new(stages, stage_json(&plan->stage[p]));
  return json_pack(
      "{s:s, s:s, s:i, s:i, s:i, s:i, s:s, s:I, s:s, s:b, s:b, s:b, s:o, s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:f, "
      "s:f, s:b}",
      "model", model_name(request->options), "gpu", machine->hardware.name, "nodes", machine->nodes, "gpus_per_node",
      machine->per_node, "replicas", plan->replicas, "stages", plan->stages, "placement",
      request->placement == PLACE_STAGES ? "stages" : "replicas", "micro_batch_tokens",
      (json_int_t)request->options->micro_batch_tokens, "reduction", request->options->reduction, "sharded_optimizer",
      request->options->shard_optimizer, "recompute", request->options->recompute, "run_ahead",
      request->options->run_ahead, "stage", stages, "micro_batches", plan->micro_batches, "step_tokens",
      (json_int_t)plan->step_tokens, "step_label_tokens", (json_int_t)plan->label_tokens, "step_seconds", plan->step,
      "bubble", plan->bubble, "tokens_per_second", plan->tokens_per_second, "fraction_of_peak", plan->of_peak, "steps",
      (json_int_t)plan->steps, "run_seconds", plan->seconds, "usable_bytes", plan->usable, "fits", plan->fits);
}
