#include "stage.h"

#include "io/backbone_file.h"

/* Multiply-adds a token: a layer's forward products; the head's forward product and its input gradient. */
static double head_in_layers(const struct model_config *c, double label_share) {
  return 2.0 * label_share * c->vocabulary * c->hidden / backbone_layer_weights(c);
}

static int rounded_up(int a, int b) {
  return (a + b - 1) / b;
}

/* Layers of the last stage: as many as leave the costliest of the others no cheaper. */
static int layers_of_last(int layers, int stages, double head) {
  int best = 1;
  double least = 0;
  for (int last = 1; last <= layers - (stages - 1); last++) {
    double others = rounded_up(layers - last, stages - 1), own = last + head;
    double cost = own > others ? own : others;
    if (last == 1 || cost < least) {
      least = cost;
      best = last;
    }
  }
  return best;
}

struct stage stage_share(const struct model_config *config, double label_share, int stages, int index) {
  int layers = config->layers;
  if (stages == 1) return stage_whole(layers);
  int last = layers_of_last(layers, stages, head_in_layers(config, label_share));
  int others = layers - last, each = others / (stages - 1), more = others % (stages - 1);
  struct stage stage = {.first = others, .end = layers, .layers = layers};
  if (index == stages - 1) return stage;
  stage.first = index * each + (index < more ? index : more);
  stage.end = stage.first + each + (index < more);
  return stage;
}
