#include "base/error.h"
#include "io/bpe.h"

/* splitmix64's finalizer: token pairs are small, regular numbers. */
static size_t slot_of(uint64_t pair, size_t mask) {
  pair = (pair ^ (pair >> 30)) * 0xbf58476d1ce4e5b9u;
  pair = (pair ^ (pair >> 27)) * 0x94d049bb133111ebu;
  return (size_t)(pair ^ (pair >> 31)) & mask;
}

/* The pair's entry, or the free one where it belongs. */
static struct pair_entry *find(const struct bpe *bpe, int32_t left, int32_t right) {
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  for (size_t slot = slot_of(pair, bpe->pair_mask);; slot = (slot + 1) & bpe->pair_mask) {
    struct pair_entry *entry = &bpe->pairs[slot];
    if (entry->pair == pair || entry->pair == UINT64_MAX) return entry;
  }
}

const struct pair_entry *bpe_pair(const struct bpe *bpe, int32_t left, int32_t right) {
  const struct pair_entry *entry = find(bpe, left, right);
  return entry->pair == UINT64_MAX ? NULL : entry;
}

int bpe_build_pairs(struct bpe *bpe, const struct merge *merges, size_t count) {
  size_t capacity = 16;
  while (capacity < 2 * count) capacity *= 2;
  TRY(memory_array(&bpe->pairs, capacity, sizeof *bpe->pairs));
  bpe->pair_mask = capacity - 1;
  for (size_t i = 0; i < capacity; i++) bpe->pairs[i].pair = UINT64_MAX;
  for (size_t i = 0; i < count; i++) {
    uint64_t pair = (uint64_t)(uint32_t)merges[i].left << 32 | (uint32_t)merges[i].right;
    *find(bpe, merges[i].left, merges[i].right) = (struct pair_entry){pair, (uint32_t)i, merges[i].result};
  }
  return OK;
}

static uint32_t rank_of(const struct bpe *bpe, int32_t left, int32_t right, int32_t *result) {
  const struct pair_entry *entry = bpe_pair(bpe, left, right);
  *result = entry ? entry->result : -1;
  if (!entry) return UINT32_MAX;
  return entry->rank;
}

size_t bpe_merge_short(const struct bpe *bpe, int32_t *ids, size_t count) {
  uint32_t ranks[BPE_SHORT];
  int32_t results[BPE_SHORT];
  for (size_t i = 0; i + 1 < count; i++) ranks[i] = rank_of(bpe, ids[i], ids[i + 1], &results[i]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; i++)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == UINT32_MAX) break;
    ids[best] = results[best];
    for (size_t i = best + 1; i + 1 < count; i++) ids[i] = ids[i + 1];
    for (size_t i = best + 1; i + 2 < count; i++) {
      ranks[i] = ranks[i + 1];
      results[i] = results[i + 1];
    }
    count--;
    if (best + 1 < count) ranks[best] = rank_of(bpe, ids[best], ids[best + 1], &results[best]);
    if (best > 0) ranks[best - 1] = rank_of(bpe, ids[best - 1], ids[best], &results[best - 1]);
  }
  return count;
}

/* A doubly linked list over the positions of the word; id -1: merged into its left neighbour. */
struct symbol {
  int32_t id;
  uint32_t previous, next;
};

struct candidate {
  uint32_t rank, position;
  int32_t result;
};

static const uint32_t nowhere = UINT32_MAX;

static bool comes_before(struct candidate a, struct candidate b) {
  return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static int heap_push(struct buffer *heap, struct candidate added) {
  TRY(buffer_append(heap, &added, sizeof added));
  struct candidate *items = (struct candidate *)(void *)heap->data;
  size_t at = heap->size / sizeof added - 1;
  while (at > 0 && comes_before(added, items[(at - 1) / 2])) {
    items[at] = items[(at - 1) / 2];
    at = (at - 1) / 2;
  }
  items[at] = added;
  return OK;
}

static struct candidate heap_pop(struct buffer *heap) {
  struct candidate *items = (struct candidate *)(void *)heap->data;
  heap->size -= sizeof *items;
  size_t count = heap->size / sizeof *items, at = 0;
  struct candidate top = items[0], last = items[count];
  for (size_t child = 1; child < count; child = 2 * at + 1) {
    if (child + 1 < count && comes_before(items[child + 1], items[child])) child++;
    if (!comes_before(items[child], last)) break;
    items[at] = items[child];
    at = child;
  }
  items[at] = last;
  return top;
}

static int push_pair(const struct bpe *bpe, struct buffer *heap, const struct symbol *symbols, uint32_t left) {
  if (left == nowhere || symbols[left].next == nowhere) return OK;
  const struct pair_entry *entry = bpe_pair(bpe, symbols[left].id, symbols[symbols[left].next].id);
  return entry ? heap_push(heap, (struct candidate){entry->rank, left, entry->result}) : OK;
}

/* A candidate is out of date when its symbols have since become parts of others. */
static bool still_holds(const struct bpe *bpe, const struct symbol *symbols, struct candidate candidate) {
  const struct symbol *left = &symbols[candidate.position];
  if (left->id < 0 || left->next == nowhere) return false;
  const struct pair_entry *entry = bpe_pair(bpe, left->id, symbols[left->next].id);
  return entry && entry->result == candidate.result;
}

static int merge_at(const struct bpe *bpe, struct buffer *heap, struct symbol *symbols, struct candidate candidate) {
  struct symbol *left = &symbols[candidate.position], *right = &symbols[left->next];
  left->id = candidate.result;
  left->next = right->next;
  right->id = -1;
  if (right->next != nowhere) symbols[right->next].previous = candidate.position;
  TRY(push_pair(bpe, heap, symbols, left->previous));
  return push_pair(bpe, heap, symbols, candidate.position);
}

int bpe_merge_long(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t *ids, size_t *count) {
  buffer_clear(&scratch->symbols);
  buffer_clear(&scratch->heap);
  if (*count >= nowhere) return fail(ERR_INPUT, "a word of %zu characters is too long", *count);
  for (uint32_t i = 0; i < *count; i++) {
    struct symbol symbol = {ids[i], i == 0 ? nowhere : i - 1, i + 1 == *count ? nowhere : i + 1};
    TRY(buffer_append(&scratch->symbols, &symbol, sizeof symbol));
  }
  struct symbol *symbols = (struct symbol *)(void *)scratch->symbols.data;
  for (uint32_t i = 0; i < *count; i++) TRY(push_pair(bpe, &scratch->heap, symbols, i));
  while (scratch->heap.size > 0) {
    struct candidate candidate = heap_pop(&scratch->heap);
    if (still_holds(bpe, symbols, candidate)) TRY(merge_at(bpe, &scratch->heap, symbols, candidate));
  }
  size_t left = 0;
  for (size_t i = 0; i < *count; i++)
    if (symbols[i].id >= 0) ids[left++] = symbols[i].id;
  *count = left;
  return OK;
}
