#pragma once
#include <string>
// Preprocessed CUDA C++ made into C++: see rewrite.cpp.
std::string rewrite(const std::string& text);
