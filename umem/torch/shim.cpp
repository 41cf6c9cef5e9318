// torch's CPU allocator in C++, over functions that umem compiled: where the layout of c10::Allocator is not
// known well enough to make one without a compiler. Only c10's headers, only libc10; no Python.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <cstdint>

namespace {

using AllocateBytes = int64_t (*)(int64_t num_bytes);

struct PoolAllocator final : c10::Allocator {
  c10::Allocator* own = nullptr;  // torch's
  AllocateBytes allocate_bytes = nullptr;
  c10::DeleterFnPtr deleter = nullptr;

  c10::DataPtr allocate(size_t num_bytes) override {
    void* data = reinterpret_cast<void*>(allocate_bytes(static_cast<int64_t>(num_bytes)));
    if (data == nullptr) return own->allocate(num_bytes);
    return {data, data, deleter, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return deleter; }
  void copy_data(void* dst, const void* src, size_t num_bytes) const override {
    default_copy_data(dst, src, num_bytes);
  }
};

}  // namespace

// Never deleted: storages of torch keep a pointer to it. Writes torch's own deleter to `own_deleter`.
extern "C" void* umem_make_allocator(AllocateBytes allocate_bytes, c10::DeleterFnPtr deleter,
                                     c10::DeleterFnPtr* own_deleter) {
  auto* made = new PoolAllocator;
  made->own = c10::GetCPUAllocator();
  made->allocate_bytes = allocate_bytes;
  made->deleter = deleter;
  *own_deleter = made->own->raw_deleter();
  return made;
}
