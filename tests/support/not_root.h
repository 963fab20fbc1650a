#pragma once
// A user whom file permissions stop, also where tests run as root.

#include <unistd.h>

namespace daug::test {

/// While it lives root is nobody, who may write only where everybody may.
class NotRoot {
 public:
  NotRoot() : was_root_(::geteuid() == 0), became_nobody_(was_root_ && ::seteuid(kNobody) == 0) {}
  ~NotRoot() {
    if (became_nobody_ && ::seteuid(0) != 0) ::_exit(255);  // everything after it would fail for another reason
  }
  NotRoot(const NotRoot&) = delete;
  NotRoot& operator=(const NotRoot&) = delete;

  /// False where root cannot become anybody else, as in some containers: then nothing is shown.
  bool holds() const { return !was_root_ || became_nobody_; }

 private:
  static constexpr uid_t kNobody = 65534;
  bool was_root_, became_nobody_;
};

}  // namespace daug::test
