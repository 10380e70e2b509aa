/**
 * @file tap_store.h
 * The second source of taps (taps.h): a store on disk in front of the live backbone. A micro-batch whose rows the store
 * all holds is replayed; any other runs live, and its rows are added to the store. Because taps depend on a row alone, a
 * replayed run equals a live one bit for bit; with int8, live taps go through the same rounding, so that it still does
 * not matter which micro-batches were replayed.
 *
 * In a pipeline each stage keeps its own taps, and reads them from whatever segments have them, of any grid. Stages decide
 * alike which rows are replayed: what each finds in the folder is compared after each look into it.
 *
 * Nothing that goes wrong with the store ends a run: rows that cannot be read are computed again, and when rows cannot be
 * written it goes on without writing. Each is warned of once by each rank; rank 0 says of the others' warnings what it had
 * not said itself (comm_share_warnings()). In a pipeline a stage cannot compute alone: taps that it could
 * not read are zero, `unread` says so, and whoever uses them repeats what they went into after tap_store_mend().
 */
#ifndef QST_TAP_STORE_H
#define QST_TAP_STORE_H

#include "base/error.h"
#include "base/options.h"
#include "comm/comm.h"
#include "io/tap_prefetch.h"
#include "io/tap_writer.h"
#include "taps.h"

struct tap_store {
  struct tap_source *source;
  struct device *device;
  struct comm *comm;
  const struct token_file *data;
  const char *folder;
  struct tap_format format;
  struct tap_reader *reader;
  struct tap_writer *writer;
  struct tap_prefetch *prefetch;
  bool writing;
  bool alone;                /**< this rank has all layers */
  int64_t *missing;          /**< [rows] ranks that have not all taps of a row; NULL when alone */
  bool *damaged;             /**< [rows] of micro-batches that this rank could not read; NULL when alone */
  bool unread;               /**< taps of this rank are zero, since the last tap_store_mend(); never when alone */
  bool blind;                /**< what was new in the folder could not be found; this was said */
  void *packed;              /**< act [capacity, taps · cols]: taps by token, as files have them */
  void *host;                /**< the same on the host; int8 only */
  struct tap_planes planes;  /**< of a live micro-batch, on their way to the writer */
  int64_t phase;             /**< grows where an epoch begins or ends */
  int64_t live, replayed;    /**< tokens of this rank */
  int64_t unreadable;        /**< micro-batches of this rank; after tap_store_finish() of all */
  int64_t write_nanoseconds; /**< what adding to the store took */
};

/** What taps depend on besides the data and the options. */
struct tap_identity {
  const char *backbone;        /**< digest */
  struct hash_text directions; /**< directions_digest() */
};

/** Opens or makes the store at options->taps for taps of `data`. ERR_INPUT when it holds others, naming the difference. */
int tap_store_open(struct tap_store *store, const struct options *options, struct tap_source *source,
                   const struct tap_identity *of, const struct token_file *data, struct comm *comm);
/** What was not sealed is dropped. */
void tap_store_close(struct tap_store *store);

/** Whether the store holds all of the rows: then they are replayed. Known from the first tap_store_enter() on; changes in
 *  tap_store_enter(), _mend() and _finish() alone. */
bool tap_store_has(const struct tap_store *store, const int64_t *rows, int count);
/** The taps of the micro-batch that holds these rows of the data, in a slot of the source. */
int tap_store_run(struct tap_store *store, int slot, const struct micro_batch *batch, const int64_t *rows, int count,
                  struct taps *out);
/** Where the source was run without tap_store_run(): takes the micro-batch's taps from the slot, and leaves there what a
 *  replay would give. */
int tap_store_add(struct tap_store *store, int slot, const struct micro_batch *batch, const int64_t *rows, int count);
/** Says which rows come next, so that they are read meanwhile. */
void tap_store_expect(struct tap_store *store, const int64_t *rows, int count);

/** Before a step's work is queued: when its phase, which grows where an epoch begins or ends, is another than the last
 *  one's, it may replay what all ranks have written until now. Collective. */
int tap_store_enter(struct tap_store *store, int64_t phase);
/** After a rank had taps unread: rows that any rank could not read run live from now on. With idle lanes. Collective. */
int tap_store_mend(struct tap_store *store);
/** Seals what is there, writes the index and says what the store now holds. Collective. */
int tap_store_finish(struct tap_store *store);

#endif
