package query_test

import "runtime"

// canTellMemory is where the process's memory is known.
const canTellMemory = runtime.GOOS == "linux"
