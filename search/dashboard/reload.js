// Optuna's dashboard keeps the trials of a study by its id, which a database may give again. The header tells whether
// the study is the one that the page knows; otherwise the page loads again, or leaves a study that is gone.
const histories = new Map();
const fetchOnly = window.fetch;
window.fetch = async (...request) => {
  const response = await fetchOnly(...request);
  const [study, history] = (response.headers.get("X-Study-History") ?? "").split(" ");
  const known = histories.get(study);
  if (study && (known ?? history) !== history) {
    if (history) location.reload();
    else location.replace("/dashboard");
    return new Promise(() => {}); // nothing of this response reaches the page
  }
  if (history) histories.set(study, history);
  return response;
};
