#include "weights/in_place_reader.h"

#include <string>
#include <utility>

#include "weights/reading_threads.h"

namespace prima::weights {
namespace {

class InPlaceReader final : public Reader {
 public:
  InPlaceReader(std::vector<std::shared_ptr<const MappedFile>> files, std::size_t queue_depth)
      : files_(std::move(files)),
        threads_(queue_depth, [this](const ReadRequest& request) { return fetch(request); }) {}

  std::string description() const override { return "in place, through the page cache"; }
  bool is_direct() const override { return false; }
  Bytes alignment() const override { return 1; }
  std::size_t queue_depth() const override { return threads_.size(); }

  void submit(const ReadRequest& request) override { threads_.submit(request); }
  void wait(Duration timeout, std::vector<ReadCompletion>& completions) override {
    threads_.wait(timeout, completions);
  }

  Status check_unchanged() const override {
    for (const auto& file : files_) PRIMA_RETURN_IF_ERROR(file->check_unchanged());
    return {};
  }

 private:
  Status fetch(const ReadRequest& request) const {
    const MappedFile& file = *files_[request.file];
    Status status = file.fetch({request.offset, request.size});
    // Of pages beyond the end of a file that became shorter the system says no more than that.
    if (!status) PRIMA_RETURN_IF_ERROR(file.check_unchanged());
    return status;
  }

  const std::vector<std::shared_ptr<const MappedFile>> files_;
  ReadingThreads threads_;  // last: they use the files
};

}  // namespace

std::unique_ptr<Reader> open_in_place_reader(std::vector<std::shared_ptr<const MappedFile>> files,
                                             std::size_t queue_depth) {
  return std::make_unique<InPlaceReader>(std::move(files), queue_depth);
}

}  // namespace prima::weights
