/* wordcount: lines, words and bytes of standard input, as `wc` counts them.
 *
 * An ordinary C program; nothing in it knows of Shunt. `functions/build` compiles it for WASI preview 1. */
#include <ctype.h>
#include <stdio.h>

int main(void) {
  static unsigned char buffer[65536];
  unsigned long long lines = 0, words = 0, bytes = 0;
  int inside = 0;
  size_t length;
  while ((length = fread(buffer, 1, sizeof buffer, stdin)) > 0) {
    bytes += length;
    for (size_t at = 0; at < length; at++) {
      lines += buffer[at] == '\n';
      int space = isspace(buffer[at]) != 0;
      words += !space && !inside;
      inside = !space;
    }
  }
  if (ferror(stdin)) {
    perror("wordcount");
    return 1;
  }
  printf("%llu %llu %llu\n", lines, words, bytes);
  return 0;
}
