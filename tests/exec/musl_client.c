/* A static program of musl's C library: resolves a name by musl's own resolver, fetches PATH from there and writes the
   answer's body to its standard output. Arguments: NAME PORT PATH. */

#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 4) return 2;
    struct addrinfo wish = {.ai_socktype = SOCK_STREAM}, *found;
    int failed = getaddrinfo(words[1], words[2], &wish, &found);
    if (failed) {
        fprintf(stderr, "%s: %s\n", words[1], gai_strerror(failed));
        return 1;
    }
    int tcp = -1;
    for (struct addrinfo *at = found; at && tcp < 0; at = at->ai_next) {
        tcp = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
        if (tcp >= 0 && connect(tcp, at->ai_addr, at->ai_addrlen)) {
            perror("connect");
            close(tcp);
            tcp = -1;
        }
    }
    if (tcp < 0) return 1;
    /* HTTP/1.0 knows no chunks, so the rest of the connection is the body. */
    dprintf(tcp, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", words[3], words[1]);
    FILE *answer = fdopen(tcp, "r");
    char line[1024];
    /* The head, with its status line, goes to standard error. */
    while (fgets(line, sizeof line, answer) && strcmp(line, "\r\n")) fputs(line, stderr);
    for (size_t got; (got = fread(line, 1, sizeof line, answer)) > 0;) fwrite(line, 1, got, stdout);
    return 0;
}
