// Portkey's gateway listens on all addresses of the machine and has no setting for that: here it is 127.0.0.1 alone.
"use strict";

const { Server } = require("node:net");

const listen = Server.prototype.listen;
Server.prototype.listen = function (port, host, ...rest) {
  return listen.call(this, port, host ?? "127.0.0.1", ...rest);
};
