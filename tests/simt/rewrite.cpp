// Makes C++ of preprocessed CUDA C++, in two respects that macros cannot serve:
//   - kernels are listed at the end, with a function that calls each from an array of pointers to its arguments;
//   - a variable in shared memory becomes a reference into its block's slot, or a call where it stands outside functions.
#include "rewrite.hpp"

#include <cctype>
#include <map>
#include <stdexcept>
#include <vector>

namespace {

bool is_name(char c) { return isalnum((unsigned char)c) || c == '_'; }

struct Rewriter {
    const std::string& in;
    size_t at = 0;
    std::string out;
    int depth = 0;             // of braces that are no namespace's and no linkage's
    std::vector<bool> counts;  // whether each open brace is one of them
    bool is_template = false;  // since the last end of a declaration
    bool opens_plain = false;  // the next brace is a namespace's or a linkage's
    int variables = 0;
    std::map<std::string, std::string> renamed;
    struct Kernel {
        std::string name, bounds, cluster;
    };
    std::vector<Kernel> kernels;

    explicit Rewriter(const std::string& text) : in(text) {}

    // What must not be looked into: literals and line directives. True where one was taken over.
    bool take_opaque() {
        char c = in[at];
        if (c == '#' && (at == 0 || in[at - 1] == '\n')) {
            size_t end = in.find('\n', at);
            out.append(in, at, end - at);
            at = end;
            return true;
        }
        if (c != '"' && c != '\'') return false;
        size_t end = at + 1;
        while (end < in.size() && in[end] != c) end += in[end] == '\\' ? 2 : 1;
        out.append(in, at, end + 1 - at);
        if (in.compare(at, end + 1 - at, "\"C\"") == 0) opens_plain = true;
        at = end + 1;
        return true;
    }

    std::string word() {
        size_t begin = at;
        while (at < in.size() && is_name(in[at])) at++;
        return in.substr(begin, at - begin);
    }

    // The text within the parentheses that open here.
    std::string parenthesis(size_t& from) const {
        size_t begin = from = in.find('(', from);
        int open = 0;
        do {
            if (in[from] == '(') open++;
            if (in[from] == ')') open--;
            from++;
        } while (open);
        return in.substr(begin + 1, from - begin - 2);
    }

    // Finds the name after the mark of a kernel; the text itself is taken over as it is.
    void kernel(size_t from) {
        std::string name, bounds, cluster;
        for (;;) {
            while (!is_name(in[from]) && in[from] != '(') from++;
            if (in[from] == '(') break;
            size_t begin = from;
            while (is_name(in[from])) from++;
            name = in.substr(begin, from - begin);
            if (name == "__attribute__") parenthesis(from);
            if (name == "__simt_bounds__") bounds = parenthesis(from);
            if (name == "__simt_cluster__") cluster = parenthesis(from);
        }
        for (auto& known : kernels)
            if (known.name == name) return;
        if (!is_template) kernels.push_back({name, bounds, cluster});
    }

    static void trim(std::string& text) {
        while (!text.empty() && isspace((unsigned char)text.back())) text.pop_back();
        while (!text.empty() && isspace((unsigned char)text[0])) text.erase(0, 1);
    }

    // Takes a word off the end of what was written.
    bool take_back(const std::string& word) {
        std::string tail = out;
        size_t end = tail.find_last_not_of(" \t\n");
        if (end == std::string::npos || end + 1 < word.size() || tail.compare(end + 1 - word.size(), word.size(), word)) return false;
        out.erase(end + 1 - word.size(), word.size());
        return true;
    }

    // The declaration after the mark of a shared variable, up to its semicolon.
    void shared() {
        bool is_extern = take_back("extern");
        take_back("static");
        std::string align = "1", type, text;
        std::vector<std::string> declarators;
        int open = 0;
        for (;; at++) {
            if (in.compare(at, 13, "__attribute__") == 0 || in.compare(at, 7, "alignas") == 0) {
                bool standard = in[at] == 'a';
                std::string inner = parenthesis(at);
                if (!standard) inner = inner.substr(inner.find('(', inner.find("aligned")) + 1), inner.resize(inner.rfind(')')), inner.resize(inner.rfind(')'));
                align = inner;
                at--;
                continue;
            }
            char c = in[at];
            if (c == '<' || c == '(' || c == '[' || c == '{') open++;
            if (c == '>' || c == ')' || c == ']' || c == '}') open--;
            if (open == 0 && (c == ',' || c == ';')) {
                declarators.push_back(text);
                text.clear();
                if (c == ';') break;
                continue;
            }
            if (c == '\n' || c == '#') c = ' ';
            text += c;
        }
        at++;
        for (size_t i = 0; i < declarators.size(); i++) {
            std::string each = declarators[i];
            size_t bracket = each.find('[');
            int angle = 0;  // a bracket in a template's arguments is none of the array's
            for (bracket = 0; bracket < each.size(); bracket++) {
                if (each[bracket] == '<') angle++;
                if (each[bracket] == '>') angle--;
                if (each[bracket] == '[' && !angle) break;
            }
            std::string dimensions = each.substr(bracket), left = each.substr(0, bracket);
            trim(left);
            size_t begin = left.size();
            while (begin && is_name(left[begin - 1])) begin--;
            std::string name = left.substr(begin);
            if (i == 0) type = left.substr(0, begin);
            trim(type);
            if (is_extern && type.compare(0, 6, "extern") == 0) type = type.substr(6);
            if (name.empty() || type.empty()) throw std::runtime_error("a shared variable that is not understood: " + each);
            declare(is_extern, align, type, name, dimensions);
        }
    }

    void declare(bool is_extern, const std::string& align, const std::string& type, const std::string& name, const std::string& dimensions) {
        std::string number = std::to_string(variables++), alias = "simt_type_" + number;
        std::string value = is_extern ? "::simt::shared_dynamic<" + alias + ", " + align + ">()"
                                      : "::simt::shared_variable<" + alias + ", struct simt_tag_" + number + ", " + align + ">()";
        out += "typedef " + type + " " + alias + (is_extern ? "" : dimensions) + "; ";
        if (depth == 0) {
            out += "inline auto" + std::string(is_extern ? "*" : "&") + " simt_get_" + number + "() { return " + value + "; } ";
            renamed[name] = "(simt_get_" + number + "())";
        } else {
            out += alias + (is_extern ? "* const " : "& ") + name + " = " + value + "; ";
            renamed.erase(name);
        }
    }

    std::string run() {
        while (at < in.size()) {
            if (take_opaque()) continue;
            char c = in[at];
            if (is_name(c)) {
                std::string token = word();
                if (token == "__simt_kernel__") kernel(at);
                else if (token == "__simt_bounds__" || token == "__simt_cluster__") parenthesis(at);
                else if (token == "__simt_shared__") shared();
                else if (renamed.count(token)) out += renamed[token];
                else {
                    if (token == "template") is_template = true;
                    if (token == "namespace") opens_plain = true;
                    out += token;
                }
                continue;
            }
            if (c == '{') {
                counts.push_back(!opens_plain);
                depth += !opens_plain;
            }
            if (c == '}' && !counts.empty()) {
                depth -= counts.back();
                counts.pop_back();
            }
            if (c == ';' || c == '{' || c == '}') is_template = opens_plain = false;
            if (c == '(') opens_plain = false;
            out += c;
            at++;
        }
        out += "\nextern \"C\" __attribute__((visibility(\"default\"))) const bool simt_flushes_subnormals = ::simt::FLUSHES;\n"
               "extern \"C\" __attribute__((visibility(\"default\"))) const ::simt::Entry simt_entries[] = {\n";
        for (auto& each : kernels)
            out += "    ::simt::Thunk<&" + each.name + ">::entry(\"" + each.name + "\", ::simt::triple" + (each.bounds.empty() ? "()" : each.bounds) +
                ", ::simt::triple" + (each.cluster.empty() ? "()" : each.cluster) + "),\n";
        out += "    {}};\n";
        return std::move(out);
    }
};

}  // namespace

std::string rewrite(const std::string& text) { return Rewriter(text).run(); }
