// Streams, events and graphs. Work of a stream is done when somebody waits for it, and not before.
#include <condition_variable>

#include "driver.hpp"

namespace simt {

static std::mutex streams_lock;
static std::map<void*, std::shared_ptr<Stream>> streams;

std::shared_ptr<Stream> stream_of(void* handle) {
    std::lock_guard guard(streams_lock);
    if ((u64)handle <= 2) {  // the default ones
        auto& stream = streams[nullptr];
        if (!stream) stream = std::make_shared<Stream>();
        return stream;
    }
    auto found = streams.find(handle);
    return found == streams.end() ? nullptr : found->second;
}

static std::mutex turns_lock;
static std::condition_variable turns;

// One thread at a time runs a stream's work, piece by piece: who waits for less than all of it goes on in between. (A
// stream may wait for another's event while the other's runner waits for an earlier one of its own.)
int drain(Stream& stream, u64 up_to) {
    std::unique_lock turn(turns_lock);
    while (stream.done < up_to) {
        if (stream.busy) {
            turns.wait(turn);
            continue;
        }
        Work work;
        {
            std::lock_guard guard(stream.adding);
            if (stream.queue.empty()) break;
            work = std::move(stream.queue.front());
            stream.queue.pop_front();
        }
        stream.busy = true;
        turn.unlock();
        if (int code = stream.error ? 0 : work(); code) stream.error = code;
        work = nullptr;
        turn.lock();
        stream.busy = false;
        stream.done++;
        turns.notify_all();
    }
    return stream.error;
}

int drain_all() {
    std::vector<std::shared_ptr<Stream>> all;
    {
        std::lock_guard guard(streams_lock);
        for (auto& [handle, stream] : streams) all.push_back(stream);
    }
    for (auto& stream : all) drain(*stream);
    return failed();
}

int add(void* handle, Work work) {
    auto stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    bool default_one = (u64)handle <= 2;
    {
        std::lock_guard guard(stream->adding);
        if (stream->capture) {
            stream->capture->work.push_back(std::move(work));
            return SUCCESS;
        }
        if (stream->error) return stream->error;
        stream->queue.push_back(std::move(work));
        stream->added++;
        if (stream->queue.size() < 512 && !default_one) return SUCCESS;
    }
    return default_one ? drain_all() : drain(*stream);
}

}  // namespace simt

using namespace simt;

API cuStreamCreate(void** out, u32) {
    GUARD;
    auto stream = std::make_shared<Stream>();
    stream->device = context()->device;
    std::lock_guard guard(streams_lock);
    streams[stream.get()] = stream;
    *out = stream.get();
    return SUCCESS;
}
API cuStreamCreateWithPriority(void** out, u32 flags, int) { return cuStreamCreate(out, flags); }
API cuStreamDestroy_v2(void* handle) {
    GUARD;
    auto stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    drain(*stream);
    std::lock_guard guard(streams_lock);
    streams.erase(handle);
    return SUCCESS;
}
API cuStreamSynchronize(void* handle) {
    GUARD;
    auto stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    return stream->capture ? CAPTURE_UNSUPPORTED : (int)drain(*stream);
}
API cuStreamQuery(void* handle) { return cuStreamSynchronize(handle); }
API cuStreamGetPriority(void*, int* priority) { *priority = 0; return SUCCESS; }
API cuStreamGetFlags(void*, u32* flags) { *flags = 1; return SUCCESS; }
API cuStreamGetCtx(void*, void** out) { *out = context(); return SUCCESS; }
API cuStreamAttachMemAsync(void*, u64, size_t, u32) { return SUCCESS; }
API cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    GUARD;
    return add(stream, [=] { function(data); return SUCCESS; });
}

API cuEventCreate(void** out, u32) { GUARD; *out = new std::shared_ptr<Event>(std::make_shared<Event>()); return SUCCESS; }
API cuEventDestroy_v2(void* event) { delete (std::shared_ptr<Event>*)event; return SUCCESS; }
API cuEventRecord(void* handle, void* at) {
    GUARD;
    auto event = *(std::shared_ptr<Event>*)handle;
    auto stream = stream_of(at);
    if (!stream) return INVALID_HANDLE;
    auto time = std::make_shared<std::chrono::steady_clock::time_point>();
    int code = add(at, [time] { *time = std::chrono::steady_clock::now(); return SUCCESS; });
    std::lock_guard guard(event->lock);
    event->stream = stream;
    event->number = stream->added;
    event->time = time;
    return code;
}
API cuEventRecordWithFlags(void* event, void* stream, u32) { return cuEventRecord(event, stream); }
static int wait_for(const std::shared_ptr<Event>& event) {
    std::shared_ptr<Stream> stream;
    u64 number;
    {
        std::lock_guard guard(event->lock);
        stream = event->stream;
        number = event->number;
    }
    return stream ? drain(*stream, number) : (int)SUCCESS;
}
API cuEventSynchronize(void* event) { GUARD; return wait_for(*(std::shared_ptr<Event>*)event); }
API cuEventQuery(void* event) { GUARD; return wait_for(*(std::shared_ptr<Event>*)event); }
API cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    GUARD;
    auto begin = (*(std::shared_ptr<Event>*)from)->time, end = (*(std::shared_ptr<Event>*)to)->time;
    if (!begin || !end) return INVALID_HANDLE;
    *milliseconds = std::chrono::duration<float, std::milli>(*end - *begin).count();
    return SUCCESS;
}
API cuEventElapsedTime(float* milliseconds, void* from, void* to) { return cuEventElapsedTime_v2(milliseconds, from, to); }
API cuStreamWaitEvent(void* stream, void* handle, u32) {
    GUARD;
    auto event = *(std::shared_ptr<Event>*)handle;
    std::shared_ptr<Stream> other;
    u64 number;
    {
        std::lock_guard guard(event->lock);
        other = event->stream;
        number = event->number;
    }
    if (!other || other == stream_of(stream)) return SUCCESS;
    return add(stream, [=] { return drain(*other, number); });
}

API cuStreamBeginCapture_v2(void* handle, int) {
    GUARD;
    auto stream = stream_of(handle);
    if (!stream || (u64)handle <= 2) return CAPTURE_UNSUPPORTED;
    if (stream->capture) return INVALID_VALUE;
    drain(*stream);
    std::lock_guard guard(stream->adding);
    stream->capture = new Graph;
    return SUCCESS;
}
API cuStreamEndCapture(void* handle, void** out) {
    GUARD;
    auto stream = stream_of(handle);
    if (!stream || !stream->capture) return INVALID_VALUE;
    std::lock_guard guard(stream->adding);
    *out = stream->capture;
    stream->capture = nullptr;
    return SUCCESS;
}
API cuStreamIsCapturing(void* handle, int* status) {
    auto stream = stream_of(handle);
    *status = stream && stream->capture ? 1 : 0;
    return SUCCESS;
}
API cuStreamGetCaptureInfo_v2(void* handle, int* status, u64* id, void*, void*, void*) {
    if (id) *id = 1;
    return cuStreamIsCapturing(handle, status);
}
API cuThreadExchangeStreamCaptureMode(int*) { return SUCCESS; }
API cuGraphInstantiateWithFlags(void** out, void* graph, u64) { *out = new Graph(*(Graph*)graph); return SUCCESS; }
API cuGraphUpload(void*, void*) { return SUCCESS; }
API cuGraphLaunch(void* graph, void* stream) {
    GUARD;
    for (auto& work : ((Graph*)graph)->work)
        if (int code = add(stream, work)) return code;
    return SUCCESS;
}
API cuGraphExecDestroy(void* graph) { delete (Graph*)graph; return SUCCESS; }
API cuGraphDestroy(void* graph) { delete (Graph*)graph; return SUCCESS; }
