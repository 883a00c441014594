package supervisor

// egressGateway is the address at which the way out answers, for packets and for
// names.
const egressGateway = "10.41.1.1"
