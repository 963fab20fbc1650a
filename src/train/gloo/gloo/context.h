#pragma once
// LibTorch's header of its Gloo process group includes Gloo's headers, which its wheels leave out. These declare what
// that header needs to be read: the classes it points to and the interface one of its own classes derives from. Objects
// are made and used inside LibTorch alone.
#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
