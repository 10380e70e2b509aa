#include "comm/lifeline.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "comm/mpi.h"

enum { ADDRESSES = 6, CONNECT_MS = 1000, ACCEPT_MS = 5000 };

/* A job that is being ended closes connections, too: so many seconds later this process would be gone. */
enum { PATIENCE = 2 };

/* What a rank tells the others: its name, where it listens, and a number that shows that it is spoken to. */
struct contact {
  uint64_t secret;
  char host[sizeof((struct comm *)0)->host];
  int count;
  struct sockaddr_in addresses[ADDRESSES];
};

struct neighbour {
  int rank, socket; /**< -1: none */
  char host[sizeof((struct comm *)0)->host];
};

static struct {
  struct neighbour next, previous;
  int rank;
  char host[sizeof((struct comm *)0)->host];
  int bell; /**< an eventfd: the thread is to end */
  pthread_t thread;
  bool is_watched; /**< there is a thread */
} line;

/* ---- opening -------------------------------------------------------------------------------------------- */

/* Those of other interfaces go before the loopback's, at which another host's rank would not be found. */
static void collect_addresses(struct contact *contact, in_port_t port, bool loopback) {
  struct ifaddrs *list;
  if (getifaddrs(&list) != 0) return;
  for (struct ifaddrs *one = list; one && contact->count < ADDRESSES; one = one->ifa_next) {
    if (!one->ifa_addr || one->ifa_addr->sa_family != AF_INET || !(one->ifa_flags & IFF_UP)) continue;
    if (((one->ifa_flags & IFF_LOOPBACK) != 0) != loopback) continue;
    struct sockaddr_in *address = &contact->addresses[contact->count++];
    memcpy(address, one->ifa_addr, sizeof *address);
    address->sin_port = port;
  }
  freeifaddrs(list);
}

/* A socket that the previous rank can connect to, -1 when that is not to be had. */
static int listen_anywhere(struct contact *contact) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) return -1;
  if (getrandom(&contact->secret, sizeof contact->secret, 0) == (ssize_t)sizeof contact->secret &&
      bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 4) == 0 &&
      getsockname(listener, (struct sockaddr *)&address, &size) == 0) {
    collect_addresses(contact, address.sin_port, false);
    collect_addresses(contact, address.sin_port, true);
    return listener;
  }
  close(listener);
  return -1;
}

static bool is_ready(int socket, short events, int milliseconds) {
  struct pollfd wait = {.fd = socket, .events = events};
  return poll(&wait, 1, milliseconds) == 1 && (wait.revents & events);
}

/* 30 s of silence, then 6 questions 10 s apart. */
static void keep_alive(int socket) {
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &(int){30}, sizeof(int));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &(int){10}, sizeof(int));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &(int){6}, sizeof(int));
}

static int connect_one(const struct sockaddr_in *address) {
  int made = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), failure = 0;
  socklen_t size = sizeof failure;
  if (made < 0) return -1;
  bool begun = connect(made, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EINPROGRESS;
  if (begun && is_ready(made, POLLOUT, CONNECT_MS) && getsockopt(made, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 &&
      failure == 0)
    return made;
  close(made);
  return -1;
}

/* The next rank, whom we show our secret. */
static void connect_to(const struct contact *them, uint64_t secret) {
  for (int i = 0; i < them->count && i < ADDRESSES && line.next.socket < 0; i++)
    line.next.socket = connect_one(&them->addresses[i]);
  if (line.next.socket >= 0) (void)!send(line.next.socket, &secret, sizeof secret, MSG_NOSIGNAL);
}

static void meet(struct neighbour *neighbour, const struct contact *contacts, int rank) {
  *neighbour = (struct neighbour){.rank = rank, .socket = -1};
  memcpy(neighbour->host, contacts[rank].host, sizeof neighbour->host);
}

/* The other end must show its secret, or it is somebody else. */
static void check_secret(struct neighbour *neighbour, uint64_t expected) {
  uint64_t secret = ~expected;
  bool shown = neighbour->socket >= 0 && is_ready(neighbour->socket, POLLIN, ACCEPT_MS) &&
               recv(neighbour->socket, &secret, sizeof secret, 0) == (ssize_t)sizeof secret && secret == expected;
  if (shown) {
    keep_alive(neighbour->socket);
  } else if (neighbour->socket >= 0) {
    close(neighbour->socket);
    neighbour->socket = -1;
  }
}

/* Contacts go round, everybody connects to the next rank and then takes the call of the previous one. */
static int join(MPI_Comm handle, int size, int listener, struct contact *contacts, char *connected) {
  enum { BYTES = sizeof *contacts };
  struct contact own = contacts[line.rank];
  TRY(mpi_status(MPI_Allgather(&own, BYTES, MPI_BYTE, contacts, BYTES, MPI_BYTE, handle), "start of MPI"));
  meet(&line.next, contacts, (line.rank + 1) % size);
  meet(&line.previous, contacts, (line.rank + size - 1) % size);
  connect_to(&contacts[line.next.rank], own.secret);
  char has = line.next.socket >= 0;
  TRY(mpi_status(MPI_Allgather(&has, 1, MPI_CHAR, connected, 1, MPI_CHAR, handle), "start of MPI"));
  if (listener >= 0 && connected[line.previous.rank] && is_ready(listener, POLLIN, ACCEPT_MS))
    line.previous.socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (line.previous.socket >= 0) (void)!send(line.previous.socket, &own.secret, sizeof own.secret, MSG_NOSIGNAL);
  check_secret(&line.previous, contacts[line.previous.rank].secret);
  check_secret(&line.next, contacts[line.next.rank].secret);
  return OK;
}

/* ---- the thread ----------------------------------------------------------------------------------------- */

static void mourn(const struct neighbour *neighbour) {
  sleep(PATIENCE);
  fprintf(stderr, "qst-mpi: rank %d on %s: rank %d on %s has died\n", line.rank, line.host, neighbour->rank,
          neighbour->host);
  file_remove_temporaries();
  _exit(ERR_LOST);
}

/* Whether the neighbour is still there. A byte is its farewell; a connection that ends without one is its death. */
static bool listen_to(const struct neighbour *neighbour) {
  char farewell;
  ssize_t got = recv(neighbour->socket, &farewell, 1, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (got <= 0) mourn(neighbour);
  return false;
}

static void *watch(void *unused) {
  const struct neighbour *neighbours[] = {&line.next, &line.previous};
  struct pollfd ends[] = {{.fd = line.next.socket, .events = POLLIN},
                          {.fd = line.previous.socket, .events = POLLIN},
                          {.fd = line.bell, .events = POLLIN}};
  (void)unused;
  while (!ends[2].revents) {
    if (poll(ends, 3, -1) < 0 && errno != EINTR) return NULL;
    for (int i = 0; i < 2; i++)
      if (ends[i].fd >= 0 && ends[i].revents && !listen_to(neighbours[i])) ends[i].fd = -1;
  }
  return NULL;
}

/* Signals are the main thread's. */
static void start_watching(void) {
  sigset_t all, before;
  line.bell = eventfd(0, EFD_CLOEXEC);
  if (line.bell < 0 || (line.next.socket < 0 && line.previous.socket < 0)) return;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  line.is_watched = pthread_create(&line.thread, NULL, watch, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- use ------------------------------------------------------------------------------------------------ */

int lifeline_open(const struct comm *world, MPI_Comm handle) {
  int status, listener = -1;
  struct contact *contacts = NULL;
  char *connected = NULL;
  if (world->size == 1) return OK;
  line.rank = world->rank;
  memcpy(line.host, world->host, sizeof line.host);
  TRY_GOTO(status, cleanup, memory_array(&contacts, (size_t)world->size, sizeof *contacts));
  TRY_GOTO(status, cleanup, memory_array(&connected, (size_t)world->size, 1));
  memcpy(contacts[line.rank].host, line.host, sizeof line.host);
  listener = listen_anywhere(&contacts[line.rank]);
  TRY_GOTO(status, cleanup, join(handle, world->size, listener, contacts, connected));
  start_watching();
cleanup:
  if (listener >= 0) close(listener);
  free(contacts);
  free(connected);
  return status;
}

static void part(struct neighbour *neighbour) {
  if (neighbour->socket < 0) return;
  (void)!send(neighbour->socket, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  close(neighbour->socket);
}

void lifeline_close(void) {
  if (!line.is_watched) return;
  (void)!write(line.bell, &(uint64_t){1}, sizeof(uint64_t));
  pthread_join(line.thread, NULL);
  line.is_watched = false;
  part(&line.next);
  part(&line.previous);
  close(line.bell);
}
