#include "program.h"

int main(void) { return answer_all(); }
