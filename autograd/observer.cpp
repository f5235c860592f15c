#include <palimpsest/autograd/observer.hpp>

namespace palimpsest {
namespace {

thread_local Observer* installed = nullptr;

}  // namespace

ObserverScope::ObserverScope(Observer* observer) : outer_(installed) { installed = observer; }
ObserverScope::~ObserverScope() { installed = outer_; }
Observer* observer() { return installed; }

}  // namespace palimpsest
