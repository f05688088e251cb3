#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    char word[] = "abc";
    printf("hello %zu\n", strlen(word));
    return EXIT_SUCCESS;
}
