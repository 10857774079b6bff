#pragma once
// The functions of kernels/ptx.cuh, as the PTX ISA defines them.
