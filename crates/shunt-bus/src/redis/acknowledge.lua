-- What is acknowledged leaves the stream: nobody else reads it.
local client = ARGV[1]
local queue = 'shunt:queue:' .. client
redis.call('XACK', queue, client, unpack(ARGV, 2))
return redis.call('XDEL', queue, unpack(ARGV, 2))
