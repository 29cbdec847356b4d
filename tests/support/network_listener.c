/* Preloaded into processes under test: writes down every attempt to leave the machine, whoever
   makes it. Python's own audit events do not see sockets that a C++ library opens. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void told(const char *what, const char *detail) {
  const char *place = getenv("EDGEMTL_TEST_NETWORK_LOG");
  FILE *log = place ? fopen(place, "a") : NULL;
  if (!log) return;
  fprintf(log, "%s %s\n", what, detail);
  fclose(log);
}

int connect(int handle, const struct sockaddr *address, socklen_t size) {
  static int (*next)(int, const struct sockaddr *, socklen_t);
  if (!next) next = dlsym(RTLD_NEXT, "connect");
  if (address && address->sa_family != AF_UNIX) told("native connect", "");
  return next(handle, address, size);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (!next) next = dlsym(RTLD_NEXT, "getaddrinfo");
  told("native getaddrinfo", node ? node : "");
  return next(node, service, hints, found);
}
