/**
 * @file evaluate.h
 * The loss on held-out rows, shared by all ranks. The same bits on any grid.
 */
#ifndef QST_EVALUATE_H
#define QST_EVALUATE_H

#include "engine.h"

struct evaluation {
  double loss;       /**< nats a label token */
  double perplexity; /**< exp(loss) */
  int64_t label_tokens;
};

/** Over the first `rows` rows of `data`. ERR_INPUT when they have no label. Overwrites the engine's sums; its lanes must have
 *  nothing queued. Collective. */
int evaluate_loss(struct engine *engine, const struct token_file *data, int64_t rows, struct evaluation *out);

#endif
