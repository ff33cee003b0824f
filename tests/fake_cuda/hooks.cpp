// What torch's core asks about CUDA (autograd: "is a context in use?") goes through one object of virtual functions. Its functions are
// replaced by ones that say: CUDA is there, and none of it is in use. For the process of tests/fake_cuda/session.py only.
#include <ATen/detail/CUDAHooksInterface.h>

struct FakeHooks : public at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
};

extern "C" void swap_hooks() {
  static FakeHooks* ours = new FakeHooks();
  auto* theirs = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
  *reinterpret_cast<void**>(theirs) = *reinterpret_cast<void**>(ours);  // the table of virtual functions
}
