/* {{name}}: greets whom it is told of.
 *
 * A program for WASI preview 1: the body of the request is standard input, what is printed is the answer, and lines on
 * standard error go to the function's log. An exit code other than 0 is an error. */
#include <stdio.h>
#include <string.h>

int main(void) {
  char name[1024];
  size_t length = fread(name, 1, sizeof name - 1, stdin);
  if (ferror(stdin) || !feof(stdin)) {
    fprintf(stderr, "a name has at most %zu bytes\n", sizeof name - 1);
    return 1;
  }
  name[length] = '\0';
  name[strcspn(name, "\r\n")] = '\0';
  fprintf(stderr, "called\n");
  printf("Hello, %s!\n", name);
  return 0;
}
