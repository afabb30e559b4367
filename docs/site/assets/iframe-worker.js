/* A page that is opened from a folder may start no worker. This runs the worker's script in a hidden frame instead. */
(function () {
  if (location.protocol !== "file:") return;
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = this.onerror = null;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      // The script's own postMessage would go to the frame itself; importScripts exists in workers only.
      inside.document.open();
      inside.document.write(
        "<!doctype html><script>" +
          "self.postMessage = function (data) { self.reply(data) };" +
          "self.importScripts = function () {" +
          "  return Array.from(arguments).reduce(function (before, url) { return before.then(function () {" +
          "    return new Promise(function (done, failed) {" +
          "      var script = document.createElement('script'); script.src = url;" +
          "      script.onload = done; script.onerror = failed; document.body.appendChild(script) }) }) }, Promise.resolve()) };" +
          "<\/script><body></body>"
      );
      inside.document.close();
      inside.reply = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      this.inside = inside;
      this.ready = inside.importScripts(String(url)).catch((error) => this.dispatchEvent(new ErrorEvent("error", { error })));
    }
    postMessage(data) {
      this.ready = this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })));
    }
    terminate() {
      this.inside.frameElement.remove();
    }
  }
  window.Worker = FrameWorker;
})();
