-- The client is there: it has this long to come again, and leaves what is to be told if it does not.
local client, owner, alive, online, will, bound = unpack(ARGV)
here(client, owner, alive)
if online ~= '' then
  redis.call('HSET', 'shunt:wills', client, will)
  tell(client, online, bound)
end
return 1
