// Element type of query, key, value and output; sums are always f32.

alias Elem = f32;
