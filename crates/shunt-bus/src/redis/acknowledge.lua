-- What is acknowledged leaves the stream: nobody else reads it. Who acknowledges is not stuck.
local client = ARGV[1]
local queue, bytes = 'shunt:queue:' .. client, 0
for at = 2, #ARGV do
  local entry = redis.call('XRANGE', queue, ARGV[at], ARGV[at])[1]
  bytes = bytes + (entry and size(unpack(entry[2], 1, 4)) or 0)
end
redis.call('XACK', queue, client, unpack(ARGV, 2))
local gone = redis.call('XDEL', queue, unpack(ARGV, 2))
redis.call('HDEL', 'shunt:full', client)
if redis.call('XLEN', queue) == 0 then
  redis.call('HDEL', 'shunt:bytes', client)
else
  redis.call('HINCRBY', 'shunt:bytes', client, -bytes)
end
return gone
