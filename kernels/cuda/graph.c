/* Repeated work as CUDA graphs: what a lane was given the second time that a task came is recorded, and from then on the
 * recording is launched. */
#include "base/error.h"
#include "kernels/cuda/cuda.h"

enum { PROBES = 4 };

/** The task's place, else a free one near where it belongs, else that of another task. */
static struct cuda_task *find_task(struct cuda_state *state, uint64_t key) {
  uint64_t mixed = (key * LANE_COUNT + (uint64_t)state->lane) * 0x9e3779b97f4a7c15u;
  struct cuda_task *home = &state->tasks[(mixed >> 32) % CUDA_TASKS], *free_place = NULL;
  for (uint64_t i = 0; i < PROBES; i++) {
    struct cuda_task *task = &state->tasks[((mixed >> 32) + i) % CUDA_TASKS];
    if (task->key == key && task->lane == state->lane && task->seen) return task;
    if (!task->seen && !free_place) free_place = task;
  }
  return free_place ? free_place : home;
}

/** Another task's place: one that comes seldom is recorded again. */
static void forget(struct cuda_task *task) {
  if (task->graph) cudaGraphExecDestroy(task->graph);
  *task = (struct cuda_task){0};
}

int cuda_task_begin(struct device *device, uint64_t key, bool *replayed) {
  struct cuda_state *state = cuda_state(device);
  struct cuda_task *task = find_task(state, key);
  cudaStream_t stream = cuda_context(device)->stream;
  *replayed = false;
  if (task->key != key || task->lane != state->lane) {
    forget(task);
    *task = (struct cuda_task){.key = key, .lane = state->lane};
  }
  if (task->graph) {
    *replayed = true;
    return cuda_check(cudaGraphLaunch(task->graph, stream), "a graph");
  }
  if (!task->seen || task->forgotten != state->forgotten) {
    task->seen = true; /* kernels are loaded and algorithms are found now */
    task->forgotten = state->forgotten;
    return OK;
  }
  state->recording[state->lane] = task;
  return cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "a graph");
}

int cuda_task_end(struct device *device) {
  struct cuda_state *state = cuda_state(device);
  struct cuda_task *task = state->recording[state->lane];
  cudaStream_t stream = cuda_context(device)->stream;
  cudaGraph_t recorded;
  if (!task) return OK;
  state->recording[state->lane] = NULL;
  TRY(cuda_check(cudaStreamEndCapture(stream, &recorded), "a graph"));
  cudaError_t error = cudaGraphInstantiateWithFlags(&task->graph, recorded, 0);
  cudaGraphDestroy(recorded);
  TRY(cuda_check(error, "a graph"));
  return cuda_check(cudaGraphLaunch(task->graph, stream), "a graph");
}

void cuda_tasks_close(struct cuda_state *state) {
  for (int i = 0; i < CUDA_TASKS; i++) forget(&state->tasks[i]);
}
