//! Every operation once more, naively, in f64.
