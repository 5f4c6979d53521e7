// What went wrong, in words: CUDA's own text for the code, then the .cu line, block, thread and the likely mistake.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <tuple>

#include "emulator.hpp"

namespace emulator {

std::string last_detail;
Code last_code = SUCCESS;
std::vector<std::string> reports, warnings;
static std::vector<Finding> pending_warnings;  // of the launch that runs

std::string number(unsigned long long value) { return std::to_string(value); }

Code error(Code code, const std::string& detail) {
    last_detail = detail;
    last_code = code;
    return code;
}

const char* cuda_text(int code) {
    switch (code) {
        case SUCCESS: return "no error";
        case INVALID_VALUE: return "invalid argument";
        case OUT_OF_MEMORY: return "out of memory";
        case NOT_INITIALIZED: return "initialization error";
        case 9: return "invalid configuration argument";
        case 12: return "invalid pitch argument";
        case 13: return "invalid device symbol";
        case 21: return "invalid copy direction for memcpy";
        case 98: return "invalid device function";
        case INVALID_DEVICE: return "invalid device ordinal";
        case INVALID_IMAGE: return "device kernel image is invalid";
        case INVALID_CONTEXT: return "invalid device context";
        case NO_BINARY_FOR_GPU: return "no kernel image is available for execution on the device";
        case FILE_NOT_FOUND: return "file not found";
        case INVALID_HANDLE: return "invalid resource handle";
        case NOT_FOUND: return "named symbol not found";
        case ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
        case LAUNCH_OUT_OF_RESOURCES: return "too many resources requested for launch";
        case LAUNCH_TIMEOUT: return "the launch timed out and was terminated";
        case DEVICE_ASSERT: return "device-side assert triggered";
        case ILLEGAL_INSTRUCTION: return "an illegal instruction was encountered";
        case MISALIGNED_ADDRESS: return "misaligned address";
        case LAUNCH_FAILED: return "unspecified launch failure";
        case NOT_SUPPORTED: return "operation not supported";
        default: return "unknown error";
    }
}

std::string json_string(const std::string& text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        if (c == '\n') out += "\\n";
        else if ((unsigned char)c >= 32) out += c;
    }
    return out + "\"";
}

static std::string place(const std::vector<Frame>& frames) {
    std::string text;
    for (size_t i = 0; i < frames.size(); i++) {
        if (i) text += ", called from ";
        text += frames[i].file + ":" + std::to_string(frames[i].line);
        if (!frames[i].function.empty()) text += " in " + frames[i].function;
    }
    return text.empty() ? "an unknown line" : text;
}

static std::string triple(Index i) {
    return "(" + number(i.x) + "," + number(i.y) + "," + number(i.z) + ")";
}

// The one place where a finding is put into words: the text for people, and a JSON object for Python's Report.
struct Words {
    std::string text, json;
};
static Words put_into_words(const Finding& finding, const char* severity) {
    static const std::vector<Frame> nowhere;
    Module* module = launch.module;
    const auto& frames = finding.pc && module ? module->frames_of(finding.pc) : nowhere;
    std::string text = finding.what;
    text += "\n    at " + place(frames);
    if (launch.function)
        text += "\n    block " + triple(finding.block) + " thread " + triple(finding.thread) + " of kernel " + launch.function->name;
    if (!finding.other.empty()) {
        text += "\n    " + finding.other;
        if (finding.other_pc) text += " " + place(module->frames_of(finding.other_pc));
    }
    if (!finding.likely.empty()) text += "\n    likely: " + finding.likely;
    auto field = [](const char* name, const std::string& value) { return "\"" + std::string(name) + "\": " + value; };
    auto list = [](Index i) { return "[" + number(i.x) + ", " + number(i.y) + ", " + number(i.z) + "]"; };
    return {text, "{" + field("kind", json_string(finding.kind)) + ", " + field("message", json_string(text)) +
                      ", " + field("severity", json_string(severity)) + ", " + field("code", number(finding.code)) + ", " +
                      field("kernel", json_string(launch.function ? launch.function->name : "")) + ", " +
                      field("file", json_string(frames.empty() ? "" : frames[0].file)) + ", " +
                      field("line", std::to_string(frames.empty() ? 0 : frames[0].line)) + ", " +
                      field("block", list(finding.block)) + ", " + field("thread", list(finding.thread)) + "}"};
}

// Into the list for Python; for a program that runs on its own, or one that `check` watches, also where the environment says.
static void publish(std::vector<std::string>& list, const Words& words, const char* severity, Code code) {
    list.push_back(words.json);
    static std::set<std::string> told;  // a loop of launches says the same each time
    if (!told.insert(words.text).second) return;
    const char* speak = getenv("CUDA_EMULATOR_SPEAK");  // "all", or "warnings" where an error is an exception
    if (speak && (!code || !strcmp(speak, "all"))) {
        fflush(stdout);
        fprintf(stderr, "%s: %s%s%s\n", severity, code ? cuda_text(code) : "", code ? ": " : "", words.text.c_str());
    }
    if (const char* path = getenv("CUDA_EMULATOR_REPORTS"))
        if (FILE* file = fopen(path, "a")) {
            fprintf(file, "%s\n", words.json.c_str());
            fclose(file);
        }
}

Code report(const Finding& finding) {
    const Words words = put_into_words(finding, "error");
    publish(reports, words, "error", finding.code);
    return error(finding.code, words.text);
}

// A finding of host code: it has a place, but no thread.
void report_host(const Finding& finding, Module& module) {
    launch.module = &module;
    const char* severity = finding.code ? "error" : "warning";
    publish(finding.code ? reports : warnings, put_into_words(finding, severity), severity, finding.code);
}

// Only noted here: a kernel's thread calls this, on its small stack, perhaps a million times.
void warn(Finding finding) {
    for (const Finding& known : pending_warnings)
        if (known.kind == finding.kind && (known.pc == finding.pc || finding.kind == "lockstep")) return;
    finding.code = SUCCESS;
    pending_warnings.push_back(finding);
}

// The optimiser copies code, so one line may have several addresses.
void report_warnings() {
    std::set<std::tuple<std::string, std::string, int>> told;
    for (const Finding& finding : pending_warnings) {
        const auto& frames = launch.module->frames_of(finding.pc);
        const Frame where = frames.empty() ? Frame{} : frames[0];
        if (!told.insert({finding.kind, where.file, where.line}).second) continue;
        publish(warnings, put_into_words(finding, "warning"), "warning", SUCCESS);
    }
    pending_warnings.clear();
}

// --- addresses to lines ----------------------------------------------------------------------------------------------

const std::vector<Frame>& Module::frames_of(uintptr_t pc) {
    locate({pc});
    return frames[pc];
}

// A return address points behind the call, so the byte before it is looked up.
void Module::locate(const std::vector<uintptr_t>& pcs) {
    std::vector<uintptr_t> missing;
    for (uintptr_t pc : pcs)
        if (!frames.count(pc)) missing.push_back(pc);
    for (size_t start = 0; start < missing.size(); start += 500) {
        std::vector<uintptr_t> part(missing.begin() + start,
                                    missing.begin() + std::min(missing.size(), start + 500));
        char word[64];
        snprintf(word, sizeof word, "/proc/%d/fd/%d", (int)getpid(), file);
        std::string command = std::string("addr2line -a -f -C -i -e ") + word;
        for (uintptr_t pc : part) {
            snprintf(word, sizeof word, " %#lx", (unsigned long)(pc - base - 1));
            command += word;
            frames[pc];
        }
        FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
        if (!pipe) return;
        char line[4096];
        std::vector<Frame>* target = nullptr;
        std::string function;
        // Per address: "0x..." and then, from the innermost function outwards, a name and a file:line.
        while (fgets(line, sizeof line, pipe)) {
            line[strcspn(line, "\n")] = 0;
            if (!strncmp(line, "0x", 2)) {
                target = &frames[strtoull(line, nullptr, 16) + base + 1];
                function.clear();
            } else if (function.empty()) {
                function = line;
            } else {
                char* colon = strrchr(line, ':');
                int row = colon ? atoi(colon + 1) : 0;
                if (colon) *colon = 0;
                std::string path = line, name = function.substr(0, function.find('('));
                function.clear();
                if (!row || path.find("emulator-include/") != std::string::npos) continue;  // not the user's
                if (path.compare(0, 2, "./") == 0) path = path.substr(2);
                if (target) target->push_back({path, name, row});
            }
        }
        pclose(pipe);
    }
}

}  // namespace emulator
