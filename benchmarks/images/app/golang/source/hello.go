package main

import (
	"fmt"
	"strings"
)

func main() {
	fmt.Println("hello", len(strings.Split("a b c", " ")))
}
