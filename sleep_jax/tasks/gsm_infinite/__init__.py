"""GSM-Infinite: arithmetic word problems of a chosen number of operations, hidden in filler."""
