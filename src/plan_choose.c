/* What the options leave to the program, and what would fit: found by trying plans. */
#include <string.h>

#include "base/error.h"
#include "plan.h"

/* ---- what would fit ------------------------------------------------------------------------------------- */

static int fits(const struct plan_request *request, int stages, int64_t micro_batch_tokens, bool *out) {
  struct options options = *request->options;
  struct plan_request smaller = *request;
  struct plan plan;
  options.micro_batch_tokens = micro_batch_tokens;
  smaller.options = &options;
  smaller.stages = stages;
  int status = plan_make(&smaller, &plan);
  *out = false;
  if (status == ERR_USAGE || status == ERR_INPUT) return OK; /* what the trainer would refuse */
  TRY(status);
  *out = plan.fits;
  plan_free(&plan);
  return OK;
}

int plan_find_fit(const struct plan_request *request, int *stages, int64_t *micro_batch_tokens, bool *found) {
  int ranks = plan_ranks(request);
  *found = false;
  for (*stages = request->stages; *stages <= ranks; ++*stages) {
    if (ranks % *stages) continue;
    for (*micro_batch_tokens = request->options->micro_batch_tokens; *micro_batch_tokens >= request->longest;
         *micro_batch_tokens /= 2) {
      TRY(fits(request, *stages, *micro_batch_tokens, found));
      if (*found) return OK;
    }
  }
  return OK;
}

/* ---- auto ----------------------------------------------------------------------------------------------- */

enum { LEAST_TOKENS = 512, MOST_TOKENS = 16384 }; /* of a micro-batch that is tried */

/* A faster plan must be so much faster to be taken over one with fewer stages or smaller micro-batches. */
static const double WORTHWHILE = 1.01;

struct choice {
  int stages;
  int64_t micro_batch_tokens;
  enum placement placement;
  bool recompute, run_ahead;
  double tokens_per_second; /* 0: none fits yet */
  bool possible;            /* of the best: some were not refused */
};

static const char *placement_name(enum placement placement) {
  return placement == PLACE_STAGES ? "stages" : "replicas";
}

/* What the trainer would refuse is no choice; *refusal is its status, OK when it would not. */
static int try_choice(const struct plan_request *request, struct choice *at, struct choice *best, int *refusal) {
  struct options options = *request->options;
  struct plan_request tried = *request;
  struct plan plan;
  options.micro_batch_tokens = at->micro_batch_tokens;
  options.recompute = at->recompute;
  options.run_ahead = at->run_ahead;
  tried.options = &options;
  tried.stages = at->stages;
  tried.placement = at->placement;
  int status = plan_make(&tried, &plan);
  *refusal = status == ERR_USAGE || status == ERR_INPUT ? status : OK;
  if (*refusal != OK) return OK;
  TRY(status);
  best->possible = at->possible = true;
  at->tokens_per_second = plan.fits ? plan.tokens_per_second : 0;
  if (at->tokens_per_second > WORTHWHILE * best->tokens_per_second) *best = *at;
  plan_free(&plan);
  return OK;
}

/* Whether so much was asked for already, or has nothing to save. */
static bool is_pointless(const struct plan_request *request, const struct choice *at) {
  const struct options *options = request->options;
  bool second_slot = at->stages == 1 && request->machine.hardware.is_gpu;
  if (options->recompute > at->recompute || options->run_ahead < at->run_ahead) return true;
  if (options->recompute == at->recompute && options->run_ahead == at->run_ahead) return true;
  return options->run_ahead != at->run_ahead && !second_slot;
}

/* As the options say; where that does not fit, with less memory, which takes longer. */
static int try_memory(const struct plan_request *request, struct choice *at, struct choice *best, int *refusal) {
  at->recompute = request->options->recompute, at->run_ahead = request->options->run_ahead;
  TRY(try_choice(request, at, best, refusal));
  if (*refusal != OK || at->tokens_per_second > 0) return OK;
  for (int lean = 1; lean < 4; lean++) {
    at->recompute = lean & 1, at->run_ahead = !(lean & 2);
    if (!is_pointless(request, at)) TRY(try_choice(request, at, best, refusal));
  }
  return OK;
}

static int try_placements(const struct plan_request *request, struct choice *at, struct choice *best, int *refusal) {
  bool chosen = strcmp(request->options->placement, "auto") != 0;
  at->placement = chosen ? request->placement : PLACE_STAGES;
  TRY(try_memory(request, at, best, refusal));
  if (*refusal != OK || chosen || at->stages == 1) return OK;
  at->placement = PLACE_REPLICAS;
  return try_memory(request, at, best, refusal);
}

static int try_tokens(const struct plan_request *request, struct choice *at, struct choice *best, int *refusal) {
  at->micro_batch_tokens = request->options->micro_batch_tokens;
  if (at->micro_batch_tokens != OPTION_AUTO) return try_placements(request, at, best, refusal);
  int64_t tokens = LEAST_TOKENS;
  while (tokens < request->longest) tokens *= 2;
  do {
    at->micro_batch_tokens = tokens;
    TRY(try_placements(request, at, best, refusal));
    tokens *= 2;
  } while (tokens <= MOST_TOKENS);
  return OK;
}

static int try_stages(const struct plan_request *request, struct choice *best, int *refusal) {
  int ranks = plan_ranks(request);
  struct choice at = {.stages = (int)request->options->pipeline_stages};
  if (at.stages != OPTION_AUTO) return try_tokens(request, &at, best, refusal);
  for (at.stages = 1; at.stages <= ranks; at.stages++)
    if (ranks % at.stages == 0) TRY(try_tokens(request, &at, best, refusal));
  return OK;
}

bool plan_is_open(const struct options *options) {
  return options->pipeline_stages == OPTION_AUTO || options->micro_batch_tokens == OPTION_AUTO ||
         (options->pipeline_stages > 1 && strcmp(options->placement, "auto") == 0);
}

int plan_choose(struct plan_request *request, struct options *options) {
  struct choice best = {0};
  int refusal = OK;
  TRY(try_stages(request, &best, &refusal));
  if (!best.possible) return refusal; /* with its message */
  if (best.tokens_per_second <= 0)
    return fail(ERR_MEMORY,
                "nothing that was tried fits in the memory of %d ranks of %.1f GB: more or larger machines are needed, "
                "or shorter rows",
                plan_ranks(request), request->machine.hardware.memory / 1e9);
  request->stages = best.stages;
  request->placement = best.placement;
  options->pipeline_stages = best.stages;
  options->micro_batch_tokens = best.micro_batch_tokens;
  options->recompute = best.recompute;
  options->run_ahead = best.run_ahead;
  options->placement = (char *)(uintptr_t)placement_name(best.placement);
  return OK;
}
