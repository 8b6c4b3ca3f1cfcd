package smoke_test

const strangerSocket = "BANGER_TEST_STRANGER"

func beStranger(string) int { return 0 }
